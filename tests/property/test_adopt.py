"""Which attempt takes a slot back after Redis has lost it, and what it takes over."""

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
from tests.property.looks import Looks
from tests.support.model_time import Timed

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=2)


class Queue(Timed, Looks):
    """A class of two GPUs."""

    def __init__(self, client: redis.Redis) -> None:
        client.flushdb()
        self.client, self.now = client, 1_000_000.0
        self.line = Line(client, devices={"t4": 2}, max_attempts=9)
        self.line.open("t4")
        self.reader = Reader(client)

    def accept(self, name: str, isolation: str = SHARED) -> str:
        """Store a job, and put it in no line."""
        return self.line.accept("t4", described(name, isolation), '"message"')

    def start(self, name: str, isolation: str = SHARED, **more: Any) -> Record:
        record: Any = described(name, isolation) | more
        [granted] = self.line.take_in(T4, record, '"message"').granted
        return granted

    def claim(self, granted: Record) -> ExecutorAttempt:
        executor = ExecutorAttempt(self.client, Attempt.of(granted), granted["token"])
        executor.claim("h:n:1", "w")
        return executor

    def adopt(self, name: str, isolation: str = SHARED, **more: Any) -> bool:
        """Adopt an attempt that runs."""
        slots, instead_of = more.pop("slots", 2), more.pop("instead_of", "")
        found: Any = {"attempt": 1, "token": "x", "instance": "h:n:2"}
        found |= described(name, isolation) | more
        return self.line.adopt("t4", found, slots, instead_of)

    def keys_of(self, holder: str) -> set[str]:
        """Return the keys that name a holder."""
        sets = ("holders_shared", "holders_exclusive", "launching", "deadlines", "stopping")
        key = class_key("t4", "devices")
        named = {each for each in sets if self.client.zrank(class_key("t4", each), holder) == 0}
        return named | ({"devices"} if self.client.hexists(key, holder) else set())


def described(name: str, isolation: str) -> Any:
    return {"delivery": name, "id": name, "isolation": isolation, "gpu_class": "t4"}


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


@pytest.mark.parametrize(("attempt", "adopted"), [(1, False), (2, False), (3, True)])
def test_only_a_later_attempt_takes_a_job_out_of_line(
    queue: Queue, attempt: int, adopted: bool
) -> None:
    granted = queue.start("a")
    for _ in range(2):
        queue.line.release(T4, Attempt.of(granted), End(EndReason.INFRA, "gone"))
        queue.now += 60
        queue.line.tick("t4")
        if granted["attempt"] == 1:
            [granted] = queue.line.admit(T4)
    assert (queue.record("a")["state"], queue.record("a")["attempt"]) == ("waiting", 2)
    assert queue.adopt("a", attempt=attempt) is adopted
    assert queue.record("a")["state"] == ("running" if adopted else "waiting")


@pytest.mark.parametrize(
    ("isolation", "device", "slots", "adopted"),
    [
        (EXCLUSIVE, 1, 2, True),
        (EXCLUSIVE, 0, 2, False),  # the GPU of the other one
        (EXCLUSIVE, 1, 1, False),  # the other one has the slot
        (EXCLUSIVE, 1, None, True),
        (EXCLUSIVE, None, 2, True),
        (SHARED, 0, 2, True),  # they share a GPU
        (SHARED, 0, 1, False),
    ],
)
def test_a_job_in_line_is_adopted_if_its_slot_and_gpu_are_free(
    queue: Queue, isolation: str, device: int | None, slots: int | None, adopted: bool
) -> None:
    assert queue.start("other", isolation)["device"] == 0
    assert queue.accept("a", isolation) == "accepted"
    more = {} if device is None else {"device": device}
    assert queue.adopt("a", isolation, slots=slots, **more) is adopted
    assert queue.record("a")["state"] == ("running" if adopted else "accepted")


@pytest.mark.parametrize(
    ("state", "keys"),
    [
        ("granted", {"holders_exclusive", "devices", "launching"}),
        ("launched", {"holders_exclusive", "devices", "deadlines"}),
        ("timed out", {"holders_exclusive", "devices", "stopping"}),
    ],
)
def test_an_ended_attempt_leaves_every_key_to_its_successor(
    queue: Queue, state: str, keys: set[str]
) -> None:
    granted = queue.start("a", EXCLUSIVE)
    if state != "granted":
        queue.line.launched(Attempt.of(granted), "h:n:1", 60)
    if state == "timed out":
        queue.now += 61
        queue.line.tick("t4")
    assert queue.keys_of("a#1") == keys
    assert queue.adopt("a", EXCLUSIVE, attempt=2, device=1, instead_of=granted["token"])
    assert queue.keys_of("a#1") == set()
    assert queue.keys_of("a#2") == {"holders_exclusive", "devices"}
    assert queue.client.hget(class_key("t4", "devices"), "a#2") == "1"


@pytest.mark.parametrize("over", [False, True])
def test_a_lost_message_is_kept_when_it_comes_again_for_work_to_do(
    queue: Queue, over: bool
) -> None:
    assert queue.adopt("a")
    if over:
        queue.line.release(T4, Attempt("t4", "a", 1), End(EndReason.ERROR, "gone"), "h:n:2")
        assert queue.line.finish_claim("t4", "a", "f", 60)[0] == "ok"
        assert queue.line.finished("t4", "a", "f", "ERROR")
    assert queue.accept("a") == "known"
    kept = queue.client.hget(class_key("t4", "messages"), "a")
    assert kept == (None if over else '"message"'), "a tombstone leaves no message behind"


def test_an_attempt_that_follows_another_one_is_not_adopted(
    queue: Queue,
) -> None:
    queue.start("a", EXCLUSIVE)
    keys = queue.keys_of("a#1")
    assert not queue.adopt("a", EXCLUSIVE, attempt=2, device=1, instead_of="another")
    assert (queue.keys_of("a#1"), queue.keys_of("a#2")) == (keys, set())
