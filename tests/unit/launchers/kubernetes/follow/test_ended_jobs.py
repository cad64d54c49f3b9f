"""Ended Jobs go once their end is written, and not before."""

from __future__ import annotations

from typing import Any

from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.follow.ended_jobs import MOST, Ended, EndedJobs
from gpuqueue.model.attempt import Attempt, RunningAttempt

NOW = 1000.0


class World:
    """An API that notes deletions, and slots that attempts hold."""

    def __init__(self) -> None:
        self.deleted: list[tuple[str, str]] = []
        self.held: set[str] = set()
        self.denied: set[str] = set()
        self.away = False
        self.asked = 0

    def delete_job(self, name: str, uid: str = "") -> bool:
        self.asked += 1
        if self.away:
            raise ApiError("no answer")
        if name in self.denied:
            raise ApiError("admission webhook denied the request", status=403)
        self.deleted.append((name, uid))
        return True

    def with_slot(self, running: list[RunningAttempt]) -> list[RunningAttempt]:
        return [each for each in running if each.instance in self.held]


def ended(name: str, at: float) -> Ended:
    running = RunningAttempt(Attempt("t4", name, 1), f"gpus/{name}/pod")
    return Ended(name, f"uid-{name}", running, at)


def swept(world: Any, *jobs: Ended, keep: float = 60) -> list[tuple[str, str]]:
    EndedJobs(world, world, keep).sweep(jobs, NOW)
    found: list[tuple[str, str]] = world.deleted
    return found


def test_a_job_whose_attempt_holds_a_slot_stays() -> None:
    world = World()
    world.held = {"gpus/a/pod"}
    assert swept(world, ended("a", 0), ended("b", 0)) == [("b", "uid-b")]


def test_a_job_stays_for_its_time() -> None:
    assert swept(World(), ended("a", NOW - 59), ended("b", NOW - 60)) == [("b", "uid-b")]
    assert swept(World(), ended("a", NOW), keep=0) == [("a", "uid-a")]


def test_a_job_is_deleted_once_though_a_finalizer_keeps_its_pod() -> None:
    world: Any = World()
    jobs = EndedJobs(world, world, 0)
    for _ in range(3):
        jobs.sweep([ended("a", 0)], NOW)
    assert world.deleted == [("a", "uid-a")]
    jobs.sweep([], NOW)  # it is gone by now
    assert not jobs._deleted


def test_a_job_that_may_not_be_deleted_keeps_no_other() -> None:
    world: Any = World()
    world.denied = {f"job-{number}" for number in range(MOST)}
    jobs = EndedJobs(world, world, 0)
    due = [*(ended(name, 0) for name in sorted(world.denied)), ended("last", 0)]
    jobs.sweep(due, NOW)
    jobs.sweep(due, NOW)  # those that were refused rest
    assert (world.deleted, world.asked) == ([("last", "uid-last")], MOST + 1)


def test_a_server_that_does_not_answer_is_asked_once() -> None:
    world: Any = World()
    world.away = True
    jobs = EndedJobs(world, world, 0)
    jobs.sweep([ended("a", 0), ended("b", 0)], NOW)
    assert world.asked == 1
    world.away = False
    jobs.sweep([ended("a", 0), ended("b", 0)], NOW)
    assert [name for name, _ in world.deleted] == ["a", "b"]
