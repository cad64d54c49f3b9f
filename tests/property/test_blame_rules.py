"""What an end says of the place where it happened, and of its job."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import EXIT_DEVICE, EXIT_NO_APPLICATION, EXIT_OK, End, explain
from gpuqueue.model.place import Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=4)
HOST, APPLICATION = "host:h", "application:shop@h"
ME = WarmInstance("h:n:1", "h", "h", "shop")
STARTED = explain(1)
LOST = End(EndReason.INFRA, "gone")


class Queue(OpenClass):
    """A class of one machine."""

    def __init__(self, client: redis.Redis, devices: int = 0) -> None:
        site = Site("h", "shop", {"t4": ["GPU-1"]})
        super().__init__(client, site=site, max_attempts=2, devices={"t4": devices})

    def start(self, name: str, claims: bool = False, **claim: Any) -> ExecutorAttempt:
        record: Any = {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}
        record |= {"task": "t", "reuse": 9}
        [granted] = self.line.take_in(T4, record, "{}").granted
        executor = ExecutorAttempt(self.client, Attempt.of(granted), granted["token"])
        if claims:
            executor.claim(ME.instance, "w", **claim)
        return executor

    def end(self, executor: ExecutorAttempt, end: End, *, claimed: bool = False) -> str:
        return self.line.release(T4, executor.attempt, end, ME.instance if claimed else "").state

    def places(self) -> dict[str, Any]:
        found: Any = self.client.hgetall(class_key("t4", "places"))
        return {name: json.loads(text) for name, text in found.items()}

    def fail(self, place: str) -> None:
        """Let a place have failed once."""
        known = {"failures": 1, "jobs": {}, "last": self.now, "since": self.now}
        self.client.hset(class_key("t4", "places"), place, json.dumps(known))

    def set_aside(self) -> list[str]:
        return [name for name, each in self.places().items() if "until" in each]


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


# -- a launch --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "aside"),
    [
        (End(EndReason.INFRA, "no GPU", avoid="n1", blames="node"), ["node:n1"]),
        (End(EndReason.INFRA, "no space left", blames="host"), [HOST]),
        (STARTED, [HOST]),
        (explain(EXIT_NO_APPLICATION), [APPLICATION]),
        (explain(None), []),
        (End(EndReason.INFRA, "the GPU failed", blames="device"), []),
    ],
    ids=["node", "host", "start", "application", "unknown", "device"],
)
def test_two_launches_that_fail_set_the_place_aside_that_they_blame(
    queue: Queue, end: End, aside: list[str]
) -> None:
    for name in ("a", "b"):
        if not queue.set_aside():  # an application is believed at once
            queue.end(queue.start(name), end)
    assert queue.set_aside() == aside
    assert aside or not queue.places()


def test_a_job_avoids_no_host_and_no_application(queue: Queue) -> None:
    queue.end(queue.start("a"), STARTED)
    assert list(queue.places()) == [HOST]
    assert not queue.record("a").get("avoid")


@pytest.mark.parametrize(
    ("reason", "final", "shown"),
    [
        (EndReason.ERROR, False, "INFRA"),
        (EndReason.ERROR, True, "ERROR"),
        (EndReason.HOST_OOM, False, "HOST_OOM"),
    ],
)
def test_only_a_status_of_a_job_that_never_began_is_a_fault_of_the_place(
    queue: Queue, reason: EndReason, final: bool, shown: str
) -> None:
    queue.line = Line(queue.client, max_attempts=1)
    attempt = queue.start("a").attempt
    assert queue.line.release(T4, attempt, End(reason, "gone"), final=final).state == "finishing"
    assert queue.record("a")["reason"] == shown


def test_a_job_waits_while_others_try_the_host_that_failed_it(queue: Queue) -> None:
    """The job may be at fault itself."""
    for name in ("a", "b"):
        queue.end(queue.start(name), STARTED)
    place = queue.places()[HOST]
    assert queue.record("b")["eta"] == place["until"] + 4 * place["pause"]


def test_a_job_that_fails_by_itself_blames_no_gpu(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis, devices=1)
    for name in ("a", "b"):
        queue.end(queue.start(name, True), LOST, claimed=True)
    assert queue.record("b").get("avoid") is None
    assert queue.places() == {}


def test_a_launch_that_was_cancelled_blames_no_place(queue: Queue) -> None:
    executor = queue.start("a")
    queue.line.cancel("t4", "a")
    assert queue.end(executor, STARTED) == "finishing"
    assert queue.places() == {}


def test_an_attempt_without_a_slot_blames_no_place(queue: Queue) -> None:
    """Its end was told before Redis came back with an older state, or comes twice."""
    executor = queue.start("a")
    queue.client.zrem(class_key("t4", "holders_shared"), "a#1")
    queue.end(executor, STARTED)
    assert queue.places() == {}


# -- a report --------------------------------------------------------------------------------------


def test_a_process_that_has_reported_blames_no_gpu(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis, devices=1)
    executor = queue.start("a", True)
    executor.report("ERROR")
    queue.end(executor, explain(EXIT_DEVICE), claimed=True)
    assert queue.places() == {}


def test_a_success_that_is_told_twice_disproves_no_later_failure(queue: Queue) -> None:
    executor = queue.start("a", True)
    executor.report("SUCCEEDED")
    assert queue.end(executor, LOST, claimed=True) == "finishing"
    queue.fail(HOST)
    queue.end(executor, LOST, claimed=True)
    assert list(queue.places()) == [HOST]


def test_a_slot_is_free_since_the_first_end_that_was_told(queue: Queue) -> None:
    executor = queue.start("a", True)
    executor.report("SUCCEEDED")
    assert executor.reported(1000)
    since = queue.now
    for _ in range(2):
        assert queue.end(executor, LOST, claimed=True) == "ended"
        queue.now += 1
    assert queue.record("a")["released"] == since


# -- an import -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "aside"), [(explain(-11), [APPLICATION]), (explain(None), [])], ids=["crash", "unknown"]
)
def test_two_imports_that_crash_set_the_application_aside(
    queue: Queue, end: End, aside: list[str]
) -> None:
    for name in ("a", "b"):
        queue.end(queue.start(name, True, loads_within=60), end, claimed=True)
    assert queue.set_aside() == aside
    assert aside or not queue.places()


def test_two_imports_that_hang_set_the_application_aside(queue: Queue) -> None:
    for name in ("a", "b"):
        executor = queue.start(name, True, loads_within=60)
        queue.now += 61
        queue.line.tick("t4")
        assert queue.record(name)["timed_out"] == "load"
        queue.end(executor, explain(None), claimed=True)
    assert queue.set_aside() == [APPLICATION]
    assert queue.places()[APPLICATION]["error"].startswith("the application was not loaded in time")


# -- an instance that has gone on ------------------------------------------------------------------


def go_on(queue: Queue, first: ExecutorAttempt) -> None:
    """Its process goes on from ``a`` to ``b``."""
    first.report("SUCCEEDED")
    assert first.reported(1000)
    one = GpuClass("t4", shared_slots=1)
    queue.line.announce([one], 600)
    record: Any = {"delivery": "b", "id": "b", "isolation": "shared", "task": "t", "reuse": 9}
    queue.line.take_in(one, record, "{}")
    taken = first.take_next(ME, reuses=True)
    assert taken is not None and queue.holders() == ["b#1"]


def test_an_end_without_a_process_frees_no_slot_of_one_that_goes_on(queue: Queue) -> None:
    first = queue.start("a", True)
    go_on(queue, first)
    assert queue.line.release(T4, first.attempt).freed is False
    assert queue.holders() == ["b#1"]
    assert queue.line.release(T4, first.attempt, explain(EXIT_OK), ME.instance).freed


def test_an_end_of_another_process_is_not_that_of_one_that_goes_on(queue: Queue) -> None:
    first = queue.start("a", True)
    go_on(queue, first)
    released = queue.line.release(T4, first.attempt, LOST, "h:n:2")
    assert (released.attempt.holder, released.freed) == ("a#1", False)


def test_a_slot_that_an_earlier_attempt_has_left_tells_nothing_of_the_next(queue: Queue) -> None:
    early = queue.start("a")
    queue.end(early, LOST)
    queue.now += 5
    queue.line.tick("t4")
    [granted] = queue.line.admit(T4)
    executor = ExecutorAttempt(queue.client, Attempt.of(granted), granted["token"])
    executor.claim("h:n:2", "w")
    executor.report("SUCCEEDED")
    queue.fail(HOST)
    queue.client.zadd(class_key("t4", "holders_shared"), {"a#1": queue.now})
    counted = queue.client.hgetall(class_key("t4", "counts"))
    assert queue.line.release(T4, Attempt("t4", "a", 1), LOST).freed
    assert queue.holders() == ["a#2"]
    assert queue.client.hgetall(class_key("t4", "counts")) == counted, "it runs on"
    assert list(queue.places()) == [HOST], "the success of the next is not known yet"


def test_a_late_end_of_an_earlier_attempt_frees_no_slot(queue: Queue) -> None:
    early = queue.start("a")
    assert queue.end(early, LOST) == "delayed"
    queue.now += 5
    queue.line.tick("t4")
    [granted] = queue.line.admit(T4)
    first = ExecutorAttempt(queue.client, Attempt.of(granted), granted["token"])
    first.claim(ME.instance, "w")
    go_on(queue, first)
    assert queue.line.release(T4, early.attempt, LOST, ME.instance).freed is False
    assert queue.holders() == ["b#1"]
