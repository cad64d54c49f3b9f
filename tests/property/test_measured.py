"""What /metrics says of a class, step by step, against what was done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End, explain
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.place import Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from gpuqueue.store.counts import BOUNDS, Durations
from gpuqueue.store.line import Line
from gpuqueue.store.measures import Measured, Measures
from gpuqueue.store.reader import Reader
from tests.support.model_time import Timed

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1)
INFRA = End(EndReason.INFRA, "the node is gone")


@dataclass
class Queue(Timed):
    """One class with a clock that tests set."""

    client: redis.Redis
    line: Line = field(init=False)

    def __post_init__(self) -> None:
        self.now = 1000.0
        self.line = Line(self.client)
        self.line.open("t4")

    def measure(self) -> Measured:
        return Measures(self.client).of("t4")

    def submit(self, name: str, isolation: str = SHARED, **fields: Any) -> list[Record]:
        record: Any = {
            "delivery": name,
            "id": name,
            "isolation": isolation,
            "gpu_class": "t4",
            **fields,
        }
        assert self.line.accept("t4", record, "{}") == "accepted"
        return self.line.enqueue(T4, name)

    def run(self, record: Record, reason: str = "SUCCEEDED") -> None:
        attempt = Attempt.of(record)
        executor = ExecutorAttempt(self.client, attempt, record["token"])
        executor.claim("h:1", "w")
        executor.report(reason)
        executor.reported(1000)
        self.line.release(T4, attempt, instance="h:1")


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    schedule_redis.flushdb()
    return Queue(schedule_redis)


def number(durations: Durations) -> float:
    return dict(durations.buckets)["+Inf"]


def test_a_class_without_jobs_is_all_zeros(queue: Queue) -> None:
    found = queue.measure()
    assert found.waiting == found.holders == {SHARED: 0, EXCLUSIVE: 0}
    assert found.longest_wait == {SHARED: 0.0, EXCLUSIVE: 0.0}
    assert (found.delayed, found.finishing) == (0, 0)
    assert not (
        found.counts.accepted or found.counts.ended or found.counts.wait or found.counts.held
    )


def test_who_waits_who_runs_and_who_has_waited_longest(queue: Queue) -> None:
    for name in "abc":
        queue.submit(name)
    queue.now += 10
    queue.submit("urgent", priority=-0)
    queue.submit("first of its priority", priority=9)
    queue.now += 5
    queue.submit("x", EXCLUSIVE)
    queue.submit("later", eta=queue.now + 100)
    found = queue.measure()
    assert found.holders == {SHARED: 2, EXCLUSIVE: 0}
    assert found.waiting == {SHARED: 3, EXCLUSIVE: 1}
    assert found.longest_wait == {SHARED: 15.0, EXCLUSIVE: 0.0}
    assert found.delayed == 1
    assert found.counts.accepted == {SHARED: 6, EXCLUSIVE: 1}


def test_the_one_who_waits_longest_may_be_of_any_priority(queue: Queue) -> None:
    for name in "ab":
        queue.submit(name)
    queue.submit("patient", priority=9)
    queue.now += 50
    queue.submit("urgent", priority=0)
    queue.submit("middling", priority=5)
    assert queue.measure().longest_wait[SHARED] == 50.0


def test_a_job_with_an_eta_waits_from_its_eta_on(queue: Queue) -> None:
    for name in "ab":
        queue.submit(name)
    queue.submit("later", eta=queue.now + 100)
    queue.now += 130
    queue.line.tick("t4")
    assert queue.measure().longest_wait[SHARED] == 30.0


def test_waits_and_the_time_of_slots_fall_into_their_buckets(queue: Queue) -> None:
    first, second = queue.submit("a") + queue.submit("b")
    queue.submit("c")
    queue.now += 3
    queue.run(first)
    queue.now += 1000
    queue.run(second)
    waits, held = queue.measure().counts.wait[SHARED], queue.measure().counts.held[SHARED]
    assert dict(waits.buckets) == {repr(float(b)): 2 if b < 3 else 3 for b in BOUNDS} | {"+Inf": 3}
    assert waits.total == 3.0
    assert dict(held.buckets) == {
        repr(float(b)): 0 if b < 3 else 1 if b < 1003 else 2 for b in BOUNDS
    } | {"+Inf": 2}
    assert held.total == 1006.0


def test_each_end_is_counted_once_by_its_reason(queue: Queue) -> None:
    for name, reason in (("a", "SUCCEEDED"), ("b", "ERROR"), ("c", "SUCCEEDED")):
        (record,) = queue.submit(name)
        queue.run(record, reason)
        queue.line.release(T4, Attempt("t4", name, 1), instance="h:1")  # repeated
    queue.submit("d", expires=queue.now + 1, eta=queue.now + 50)
    queue.now += 2
    queue.line.tick("t4")
    assert queue.measure().finishing == 1
    queue.line.finish_claim("t4", "d", "f", 10)
    queue.line.finished("t4", "d", "f", "EXPIRED")
    queue.line.finished("t4", "d", "f", "EXPIRED")
    ended = {(SHARED, "SUCCEEDED"): 2, (SHARED, "ERROR"): 1, (SHARED, "EXPIRED"): 1}
    assert queue.measure().counts.ended == ended
    assert queue.measure().finishing == 0


def test_a_repeated_attempt_is_counted_and_its_wait_starts_again(queue: Queue) -> None:
    queue.submit("a")
    queue.line.release(T4, Attempt("t4", "a", 1), INFRA)
    assert queue.measure().counts.repeated == {(SHARED, "INFRA"): 1}
    assert queue.measure().delayed == 1
    queue.now += 60
    queue.line.tick("t4")
    assert queue.measure().longest_wait[SHARED] == 59.0, "its pause, a second, is not a wait"
    queue.line.admit(T4)
    assert number(queue.measure().counts.wait[SHARED]) == 2
    assert number(queue.measure().counts.held[SHARED]) == 1


def test_a_pod_without_a_job_is_measured_and_counts_when_it_gets_one(queue: Queue) -> None:
    queue.line = Line(queue.client, owner="o", site=Site(application="shop"))
    queue.line.announce([T4], 600)
    [first] = queue.submit("a", warm=60)
    executor = ExecutorAttempt(queue.client, Attempt.of(first), first["token"])
    executor.claim("ns/job/pod", "w")
    executor.report("SUCCEEDED")
    executor.reported(1000)
    me = WarmInstance("ns/job/pod", "pod", "o", "shop", stays=60)
    assert queue.measure().idle_pods == 0
    assert executor.take_next(me, ended=explain(0)) is None
    assert (queue.measure().idle_pods, queue.measure().counts.warm) == (1, {})
    assert Reader(queue.client).view("t4", T4.spec()).idle_pods == 1
    assert queue.submit("b", warm=60) == [], "the pod has it: nothing is launched"
    assert (queue.measure().idle_pods, queue.measure().counts.warm) == (0, {SHARED: 1})
    record: Any = Reader(queue.client).record("t4", "b")
    executor = ExecutorAttempt(queue.client, Attempt.of(record), record["token"])
    executor.claim("ns/job/pod", "w")
    executor.report("SUCCEEDED")
    executor.reported(1000)
    queue.line.take_in(GpuClass("t4"), record | {"delivery": "c", "id": "c"}, "{}")
    assert executor.take_next(me, ended=explain(0))
    assert (queue.measure().idle_pods, queue.measure().counts.warm) == (0, {SHARED: 2})


def test_measuring_changes_nothing(queue: Queue) -> None:
    queue.submit("a")
    queue.submit("x", EXCLUSIVE)
    before = {key: queue.client.dump(key) for key in queue.client.scan_iter()}
    queue.measure()
    assert {key: queue.client.dump(key) for key in queue.client.scan_iter()} == before
