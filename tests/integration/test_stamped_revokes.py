"""Revokes of many jobs: bounded, in the background, and by stamps over live jobs alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.dispatcher.cancel import AT_ONCE, Canceller
from gpuqueue.model.job import Job
from gpuqueue.store.client import connect
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=1)
FULL = GpuClass("t4", shared_slots=0, exclusive_slots=0)
JOBS = 120


class NoFinisher:
    """Finishes nothing: the jobs stay in the state that the revoke gave them."""

    def submit(self, gpu_class: str, delivery: str) -> None:
        """The watcher would finish it."""


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    with EmbeddedRedis() as server:
        made = connect(server.url)
        yield made
        made.close()


@pytest.fixture
def cancellers(client: redis.Redis) -> Iterator[list[Canceller]]:
    finisher: Any = NoFinisher()
    made = [Canceller(client, Line(client), Reader(client), {"t4": T4}, finisher) for _ in range(3)]
    yield made
    for each in made:
        each.close()


def add(line: Line, job: str, **stamps: str) -> None:
    headers = {"id": job, "stamps": stamps, "stamped_headers": list(stamps)}
    record = Job(job, "shop.train", "t4", "shared").record()
    assert line.accept("t4", record, json.dumps({"headers": headers})) == "accepted"


def states(client: redis.Redis) -> dict[str, str]:
    return {record["id"]: record["state"] for record in Reader(client).all_records("t4")}


def reads(client: redis.Redis) -> int:
    """Return how many messages were read, among other fields of hashes."""
    return int(client.info("commandstats").get("cmdstat_hget", {"calls": 0})["calls"])


def test_a_stamped_revoke_cancels_each_live_job_with_the_stamp_once(
    client: redis.Redis, cancellers: list[Canceller]
) -> None:
    line = Line(client)
    line.open("t4")
    for number in range(JOBS):
        add(line, f"of-me-{number}", order="mine")
        add(line, f"of-others-{number}", order="other")
        line.enqueue(T4, f"of-me-{number}")
    client.config_resetstat()
    for each in cancellers:
        each.cancel_by_stamps({"order": ["mine"]}, terminate=True, signal="TERM")

    def cancelled() -> bool:
        found = states(client)
        running = found.pop("of-me-0")
        waiting = {state for job, state in found.items() if job.startswith("of-me")}
        return waiting == {"finishing"} and running == "launching"

    until(cancelled, PATIENCE, "all are cancelled", lambda: str(states(client)))
    until(
        lambda: client.zcard(class_key("t4", "stopping")) == 1,
        PATIENCE,
        "the started one is stopped",
    )
    for each in cancellers:
        each._background.submit(lambda: None).result(PATIENCE)
    assert {state for job, state in states(client).items() if job.startswith("of-others")} == {
        "accepted"
    }
    # Each dispatcher alone would read all of them: 2 * JOBS messages, and a few fields for each job
    # that it cancels.
    once = 2 * JOBS + 6 * JOBS
    assert reads(client) <= once


def test_a_stamped_revoke_reads_no_job_that_has_ended(
    client: redis.Redis, cancellers: list[Canceller]
) -> None:
    line = Line(client)
    for number in range(JOBS):
        job = f"of-me-{number}"
        add(line, job, order="mine")
        line.cancel("t4", job)
        line.finish_claim("t4", job, "me", 15)
        line.finished("t4", job, "me", "CANCELLED")
    client.config_resetstat()
    cancellers[0].cancel_by_stamps({"order": ["mine"]}, terminate=True, signal="TERM")
    cancellers[0]._background.submit(lambda: None).result(PATIENCE)
    assert reads(client) == 0


def test_a_dispatcher_takes_over_from_one_that_died_in_a_revoke(
    client: redis.Redis, cancellers: list[Canceller], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpuqueue.store.revocations.CLAIM", 1)
    line = Line(client)
    add(line, "of-me", order="mine")
    dead, alive, _ = cancellers

    def die(*_: Any) -> Iterator[str]:
        raise KeyError("killed")

    monkeypatch.setattr(dead, "_stamped", die)
    for each in (dead, alive):
        each.cancel_by_stamps({"order": ["mine"]}, terminate=True, signal="TERM")
        if each is dead:
            each._background.submit(lambda: None).result(PATIENCE)
    until(lambda: states(client) == {"of-me": "finishing"}, PATIENCE, "it is cancelled")


def test_a_revoke_of_many_jobs_leaves_most_of_them_to_the_background(
    client: redis.Redis, cancellers: list[Canceller]
) -> None:
    line = Line(client)
    for number in range(AT_ONCE + 5):
        add(line, f"job-{number}")
    jobs = [f"job-{number}" for number in range(AT_ONCE + 5)]
    outcomes = cancellers[0].cancel_all(jobs, terminate=True, signal="TERM")
    assert list(outcomes) == jobs
    assert list(outcomes.values()) == ["cancelled"] * AT_ONCE + ["queued"] * 5
    until(lambda: set(states(client).values()) == {"finishing"}, PATIENCE, "all are cancelled")


def test_a_revoke_of_many_jobs_takes_few_round_trips(
    client: redis.Redis, cancellers: list[Canceller]
) -> None:
    line = Line(client)
    jobs = [f"job-{number}" for number in range(AT_ONCE)]
    for job in jobs:
        add(line, job)
    executions: list[int] = []
    execute = redis.client.Pipeline.execute

    def counted(pipe: redis.client.Pipeline, *args: Any, **kwargs: Any) -> Any:
        executions.append(len(pipe.command_stack))
        return execute(pipe, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(client.pipeline()), "execute", counted)
        assert set(cancellers[0].cancel_all(jobs, terminate=True, signal="TERM").values()) == {
            "cancelled"
        }
    assert len(executions) <= 3


def test_a_revoke_waits_half_a_second_at_most_and_is_not_lost(
    client: redis.Redis, cancellers: list[Canceller]
) -> None:
    line = Line(client)
    add(line, "first")
    add(line, "second")
    client.client_pause(4000)  # Redis answers no script for so long
    began = time.monotonic()
    outcomes = [
        cancellers[0].cancel_all([job], terminate=True, signal="TERM")
        for job in ("first", "second")
    ]
    assert time.monotonic() - began < 3
    assert outcomes == [{"first": "queued"}, {"second": "queued"}]
    until(lambda: set(states(client).values()) == {"finishing"}, PATIENCE, "both are cancelled")


def test_revokes_that_wait_are_bounded_and_the_next_one_is_refused(
    client: redis.Redis, cancellers: list[Canceller], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpuqueue.dispatcher.cancel.MOST_WAITING", 1)
    client.client_pause(1000)
    assert cancellers[0].cancel_all(["a"], terminate=True, signal="TERM") == {"a": "queued"}
    assert cancellers[0].cancel_all(["b"], terminate=True, signal="TERM") == {"b": "failed"}
    assert cancellers[0].cancel_by_stamps({"order": ["a"]}, terminate=True, signal="TERM")
    assert not cancellers[0].cancel_by_stamps({"order": ["b"]}, terminate=True, signal="TERM")


def test_a_job_that_cannot_be_cancelled_keeps_no_other_one(
    client: redis.Redis, cancellers: list[Canceller]
) -> None:
    line = Line(client)
    add(line, "job")
    outcomes = cancellers[0].cancel_all(["\ud800", "job"], terminate=True, signal="TERM")
    assert outcomes == {"\ud800": "failed", "job": "cancelled"}
