"""A job keeps its place through faults of the infrastructure; a retry of its task does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.support.model_time import Timed

pytestmark = pytest.mark.integration
#: One slot, so that each release starts exactly the first in line.
T4 = GpuClass("t4", shared_slots=1, exclusive_slots=1, exclusive_patience=2)
EVICTED, INFRA = End(EndReason.EVICTED, "evicted"), End(EndReason.INFRA, "gone")
#: Longer than the pause before any new attempt.
PAUSE = 61.0


@dataclass
class Queue(Timed):
    """One class with a clock that tests set."""

    client: redis.Redis

    def __post_init__(self) -> None:
        self.client.flushdb()
        self.now = 1_000_000.0
        self.line = Line(self.client, max_attempts=5)
        self.line.open("t4")
        self.reader = Reader(self.client)

    def submit(self, name: str, isolation: str = "shared", **more: Any) -> list[Record]:
        record: Any = {"delivery": name, "id": name.partition("~")[0], "gpu_class": "t4"}
        record |= {"isolation": isolation, "retries": int(name.partition("~")[2] or 0), **more}
        assert self.line.accept("t4", record, "{}") == "accepted"
        return self.line.enqueue(T4, name)

    def claim(self, granted: Record) -> ExecutorAttempt:
        executor = ExecutorAttempt(self.client, Attempt.of(granted), granted["token"])
        executor.claim("h:n:1", "w")
        return executor

    def after_the_pause(self) -> None:
        self.now += PAUSE
        self.line.tick("t4")

    def started(self) -> list[str]:
        """Start and end jobs, one after the other, until none waits; return them in order."""
        order = []
        for attempt, _ in self.reader.holders("t4"):
            self.line.release(T4, attempt, End(EndReason.BAD_SPEC, "over"), "h:n:1")
        self.line.admit(T4)
        while held := self.reader.holders("t4"):
            [(attempt, _)] = held
            order.append(attempt.delivery)
            self.line.release(T4, attempt, End(EndReason.BAD_SPEC, "over"))
        return order


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def launch_failed(queue: Queue, granted: Record) -> None:
    queue.line.release(T4, Attempt.of(granted), INFRA)


def ended_unclaimed(queue: Queue, granted: Record) -> None:
    queue.line.launched(Attempt.of(granted), "h:n:1", 60)
    queue.line.release(T4, Attempt.of(granted), End(EndReason.ERROR, "exit code 1"), "h:n:1")


def not_claimed_in_time(queue: Queue, granted: Record) -> None:
    queue.line.launched(Attempt.of(granted), "h:n:1", 60)
    queue.after_the_pause()
    queue.line.release(T4, Attempt.of(granted), End(EndReason.POD_DELETED, "late"), "h:n:1")


def evicted(queue: Queue, granted: Record) -> None:
    queue.claim(granted)
    queue.line.release(T4, Attempt.of(granted), EVICTED, "h:n:1")


def evicted_while_adopted(queue: Queue, granted: Record) -> None:
    assert queue.line.adopt("t4", {**granted, "instance": "h:n:1"})
    evicted(queue, granted)


FAULTS = [launch_failed, ended_unclaimed, not_claimed_in_time, evicted, evicted_while_adopted]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_job_keeps_its_place_after_a_fault(
    queue: Queue, fault: Callable[[Queue, Record], None]
) -> None:
    [first] = queue.submit("first")
    for name in ("second", "third"):
        queue.submit(name)
    fault(queue, first)  # the second starts meanwhile
    queue.submit("fourth")
    queue.after_the_pause()
    assert queue.started() == ["first", "third", "fourth"]


def test_a_job_keeps_its_place_after_several_faults(queue: Queue) -> None:
    [granted] = queue.submit("first")
    queue.submit("second")
    for number in range(3):
        launch_failed(queue, granted)
        queue.submit(f"later{number}")
        queue.after_the_pause()
        [(attempt, _)] = queue.reader.holders("t4")
        [granted] = queue.line.release(T4, attempt, End(EndReason.BAD_SPEC, "over")).granted
        assert granted["delivery"] == "first"


def test_the_place_lies_within_the_priority_of_the_job(queue: Queue) -> None:
    [first] = queue.submit("first", priority=6)
    queue.submit("running", priority=3)
    queue.submit("low", priority=9)
    queue.submit("urgent", priority=0)
    queue.line.release(T4, Attempt.of(first), INFRA)
    queue.submit("also urgent", priority=0)
    queue.submit("equal", priority=6)
    queue.after_the_pause()
    assert queue.started() == ["also urgent", "running", "first", "equal", "low"]


def test_a_retry_of_the_task_arrives_behind_those_that_wait(queue: Queue) -> None:
    [first] = queue.submit("first")
    executor = queue.claim(first)
    queue.submit("second")
    executor.report("RETRIED")
    queue.submit("first~1")
    executor.reported(1000)
    assert queue.started() == ["second", "first~1"]


def test_a_job_with_an_eta_arrives_when_it_is_due(queue: Queue) -> None:
    queue.submit("running")
    queue.submit("early", eta=queue.now + 10)
    queue.submit("second")
    queue.after_the_pause()
    queue.submit("third")
    assert queue.started() == ["second", "early", "third"]


def test_jobs_of_one_eta_arrive_in_the_order_of_their_acceptance(queue: Queue) -> None:
    names = [f"j{number * 37 % 101:03}" for number in range(101)]
    eta = queue.now + 5
    for name in names:
        assert queue.submit(name, eta=eta) == []
    queue.now += 5.001
    for _ in range(3):
        queue.line.tick("t4")
    assert queue.client.zrange(class_key("t4", "waiting_shared"), 0, -1) == names


def test_an_exclusive_job_that_returns_is_not_overtaken_beyond_the_bound(queue: Queue) -> None:
    [first] = queue.submit("first", "exclusive", priority=3)
    queue.submit("running", priority=3)
    launch_failed(queue, first)
    for number in range(4):
        queue.submit(f"equal{number}", priority=3)
    queue.after_the_pause()
    for number in range(4):
        queue.submit(f"urgent{number}", priority=0)
    order = queue.started()
    assert order[:3] == ["urgent0", "urgent1", "first"], "exclusive_patience is 2"


def test_a_record_of_an_older_version_gets_a_place_at_its_next_arrival(queue: Queue) -> None:
    [first] = queue.submit("first")
    queue.submit("second")
    queue.submit("third")
    launch_failed(queue, first)
    older: Any = queue.reader.record("t4", "first")
    del older["arrival"]
    queue.client.hset(class_key("t4", "jobs"), "first", json.dumps(older))
    queue.after_the_pause()
    assert queue.started() == ["third", "first"]
