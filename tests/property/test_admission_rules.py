"""Which waiting job a decision starts, and on which GPU, where both isolations meet."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.support.model_time import Timed

pytestmark = pytest.mark.integration
#: One slot each; and no slot, so that jobs wait beside one another.
T4, FULL = GpuClass("t4", shared_slots=1, exclusive_slots=1), GpuClass("t4")


class Queue(Timed):
    """A class with GPUs."""

    def __init__(self, client: redis.Redis) -> None:
        client.flushdb()
        self.client, self.now = client, 1_000_000.0
        self.reader = Reader(client)
        self.devices(0)
        self.line.open("t4")

    def devices(self, total: int) -> None:
        """Let the launcher hand out as many GPUs."""
        self.line = Line(self.client, devices={"t4": total})

    def submit(
        self, name: str, isolation: str = SHARED, into: GpuClass = T4, **more: Any
    ) -> list[Record]:
        record: Any = {"delivery": name, "id": name, "isolation": isolation, "gpu_class": "t4"}
        return self.line.take_in(into, record | more, "{}").granted

    def end(self, granted: Record, of: GpuClass = T4) -> list[str]:
        """End an attempt; return what starts in its place."""
        released = self.line.release(of, Attempt.of(granted))
        return [record["delivery"] for record in released.granted]


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


@pytest.mark.parametrize(
    ("waiting", "first"),
    [
        ([("s", SHARED, 3), ("x", EXCLUSIVE, 3)], "s"),
        ([("x", EXCLUSIVE, 3), ("s", SHARED, 3)], "x"),
        ([("s", SHARED, 3), ("x", EXCLUSIVE, 0)], "x"),
        ([("x", EXCLUSIVE, 3), ("s", SHARED, 0)], "s"),
    ],
)
def test_an_idle_class_starts_the_first_in_line_of_both_isolations(
    queue: Queue, waiting: list[tuple[str, str, int]], first: str
) -> None:
    for name, isolation, priority in waiting:
        queue.submit(name, isolation, FULL, priority=priority)
    [granted] = queue.line.admit(T4)
    assert granted["delivery"] == first


def test_a_shared_job_that_cannot_start_gives_no_turn_to_its_isolation(queue: Queue) -> None:
    without = GpuClass("t4", shared_slots=0, exclusive_slots=1, shared_patience=1)
    queue.submit("s", into=without)
    [first] = queue.submit("x1", EXCLUSIVE, without)
    assert queue.submit("x2", EXCLUSIVE, without) == []
    assert queue.end(first, without) == ["x2"]


def test_a_cancelled_shared_job_gives_its_turn_back(queue: Queue) -> None:
    queue.submit("x1", EXCLUSIVE, FULL)
    queue.submit("s", into=FULL)
    [first] = queue.line.admit(T4)
    assert first["delivery"] == "x1"
    assert queue.submit("x2", EXCLUSIVE) == []
    why = queue.reader.why(T4, "x2")
    assert why is not None and why.reason == "NO_FREE_SLOT"
    queue.line.cancel("t4", "s")
    assert queue.end(first) == ["x2"], "no shared job waits for its turn"


@pytest.mark.parametrize("isolation", [SHARED, EXCLUSIVE])
def test_more_slots_than_gpus_are_spread_evenly(queue: Queue, isolation: str) -> None:
    queue.devices(2)
    slots = GpuClass("t4", shared_slots=5, exclusive_slots=5)
    granted = [queue.submit(name, isolation, slots)[0] for name in "abcde"]
    assert [record["device"] for record in granted] == [0, 1, 0, 1, 0]


def test_a_job_on_a_gpu_that_is_no_longer_handed_out_stops_no_other(queue: Queue) -> None:
    queue.devices(3)
    slots = GpuClass("t4", shared_slots=6)
    granted = [queue.submit(name, into=slots)[0] for name in "abc"]
    assert granted[2]["device"] == 2
    queue.devices(1)
    assert [record["device"] for record in queue.submit("d", into=slots)] == [0]


def test_a_fault_of_a_gpu_holds_no_job_that_gets_none(queue: Queue) -> None:
    entry = '{"failures":2,"last":1e6,"jobs":{},"until":2e6,"pause":2}'
    queue.client.hset(class_key("t4", "places"), "device:/0", entry)
    queue.devices(1)
    assert queue.submit("a") == [], "its only GPU is set aside"
    queue.devices(0)
    assert [record["delivery"] for record in queue.line.admit(T4)] == ["a"]


@pytest.mark.parametrize("state", ["launching", "running", "delayed", "finishing", "ended"])
def test_a_job_whose_name_was_left_in_line_does_not_start_again(queue: Queue, state: str) -> None:
    [granted] = queue.submit("a")
    executor = ExecutorAttempt(queue.client, Attempt.of(granted), granted["token"])
    if state in ("running", "ended"):
        executor.claim("h:n:1", "w")
    if state == "ended":
        executor.report("SUCCEEDED")
        executor.reported(1000)
    if state in ("delayed", "finishing", "ended"):
        reason = EndReason.INFRA if state == "delayed" else EndReason.BAD_SPEC
        instance = "h:n:1" if state == "ended" else ""
        queue.line.release(T4, Attempt.of(granted), End(reason, "gone"), instance)
    queue.client.zadd(class_key("t4", "waiting_shared"), {"a": 1.0})
    two = GpuClass("t4", shared_slots=2)
    assert queue.line.admit(two) == []
    assert queue.client.exists(class_key("t4", "waiting_shared")) == 0
    record = queue.reader.record("t4", "a")
    assert record is not None and (record["state"], record["attempt"]) == (state, 1)


def test_a_job_in_the_line_of_the_other_isolation_starts_by_its_own_rules(queue: Queue) -> None:
    slots = GpuClass("t4", shared_slots=2, exclusive_slots=1)
    [shared] = queue.submit("s", into=slots)
    queue.submit("x", EXCLUSIVE, slots)
    queue.client.zrem(class_key("t4", "waiting_exclusive"), "x")
    queue.client.zadd(class_key("t4", "waiting_shared"), {"x": 1.0})
    assert queue.line.admit(slots) == [], "a shared job runs"
    assert queue.client.zrange(class_key("t4", "waiting_exclusive"), 0, -1) == ["x"]
    assert queue.end(shared, slots) == ["x"]
