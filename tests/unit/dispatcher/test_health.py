"""Whether a dispatcher is dead, or not ready, from what its loops tell."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gpuqueue.dispatcher.health import LATE, OUT_OF_SIGHT, STUCK, Health


@dataclass
class Watcher:
    began: float = 0.0
    succeeded: float = 0.0
    trouble: str = ""
    runs: bool = True
    blind: bool = False
    unseen: float = 0.0

    def alive(self) -> bool:
        return self.runs


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """A dispatcher that takes messages, and has a watcher with a good last cycle."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.watcher = Watcher(began=999.0, succeeded=999.5)
        self.health = Health(self.watcher, tick=1.0, clock=self.clock)
        self.health.beat()

    def later(self, seconds: float, *, beats: bool = True, turns: bool = True) -> None:
        self.clock.now += seconds
        if beats:
            self.health.beat()
        if turns:
            self.watcher.began = self.clock.now - 1
            self.watcher.succeeded = self.clock.now - 0.5


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_one_that_works_is_neither_sick_nor_unready(worker: Worker) -> None:
    assert (worker.health.sick(), worker.health.unready()) == ("", "")


def test_one_that_starts_is_not_ready_and_not_sick() -> None:
    health = Health(Watcher(), tick=1.0, clock=Clock())
    assert health.sick() == ""
    assert "takes no messages" in health.unready()
    health.beat()
    assert "not completed a cycle" in health.unready()


def test_one_whose_broker_is_away_is_unready_for_as_long_and_not_sick(worker: Worker) -> None:
    worker.health.pause()
    worker.later(STUCK * 10, beats=False)
    assert "takes no messages" in worker.health.unready()
    assert worker.health.sick() == ""
    worker.health.beat()
    assert worker.health.unready() == ""


def test_a_failing_watcher_is_named_as_the_cause(worker: Worker) -> None:
    worker.watcher.trouble = "Redis: Connection refused"
    assert "Connection refused" in worker.health.unready()
    assert worker.health.sick() == ""


def test_a_watcher_without_a_good_turn_for_long_makes_it_unready(worker: Worker) -> None:
    worker.later(LATE, turns=False)
    assert worker.health.unready() == ""
    worker.later(2, turns=False)
    assert "last good cycle was 32 s ago" in worker.health.unready()
    assert worker.health.sick() == ""


def test_a_turn_that_does_not_end_makes_it_sick(worker: Worker) -> None:
    worker.later(STUCK - 1, turns=False)
    assert worker.health.sick() == ""
    worker.later(3, turns=False)
    assert "one cycle" in worker.health.sick()


def test_a_loop_that_does_not_come_round_makes_it_sick(worker: Worker) -> None:
    worker.later(STUCK - 1, beats=False)
    assert worker.health.sick() == ""
    worker.later(2, beats=False)
    assert "loop has been stuck" in worker.health.sick()
    assert worker.health.unready() == worker.health.sick()


def test_a_watcher_that_has_died_makes_it_sick(worker: Worker) -> None:
    worker.watcher.runs = False
    assert "thread has ended" in worker.health.sick()


def test_a_cluster_out_of_sight_makes_it_unready_and_after_minutes_sick(worker: Worker) -> None:
    worker.watcher.blind, worker.watcher.unseen = True, 12.0
    assert "the cluster has given no good answer for 12 s" in worker.health.unready()
    assert worker.health.sick() == ""
    worker.watcher.unseen = OUT_OF_SIGHT + 1
    assert "no good answer for 301 s" in worker.health.sick()


def test_a_cluster_state_that_is_unknown_makes_it_unready_alone(worker: Worker) -> None:
    worker.watcher.blind = True
    assert worker.health.unready() == "the cluster state is unknown"
    assert worker.health.sick() == ""
