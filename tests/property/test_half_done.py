"""A script that fails half-way keeps what it has written: once its cause is mended, and its steps
are repeated as dispatchers repeat them, each job ends, no slot is held, and each attempt that had
one has one entry.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import NODE, GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import explain
from gpuqueue.model.job import Job
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import NAMES, class_key
from gpuqueue.store.turn import Turn, Turns
from gpuqueue.store.usage import Capacities, Usage
from tests.property.open_class import NOW, OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1)
#: Job → how it is sent.
SENT: dict[str, dict[str, Any]] = {
    "runs": {},
    "reported": {},
    "waits": {"expires": NOW + 9e5},
    "alone": {"isolation": "exclusive"},
    "due": {"eta": NOW + 5},
    "expires": {"expires": NOW + 5},
    "new": {},
}


class Class(OpenClass):
    """A class, and what dispatchers do for it."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, by="d1")
        self.turns = Turns(client, self.line)
        self.held: set[str] = set()

    def fill(self) -> None:
        """Send the jobs; two of them run."""
        for name in SENT:
            if name != "new":
                self.send(name)
        for name in ("runs", "reported"):
            self.begin(self.attempt(name))
        self.report(self.attempt("reported"))

    def send(self, name: str) -> None:
        fields = {"isolation": "shared", **SENT[name]}
        job = Job(name, "shop.train", "t4", tenant="vision", **fields)
        self.line.take_in(T4, job.record(), json.dumps({"headers": {"id": name}}))

    def attempt(self, name: str) -> Attempt:
        record = self.reader.record("t4", name)
        assert record is not None
        return Attempt.of(record)

    def begin(self, attempt: Attempt) -> None:
        self.line.launched(attempt, f"h:{attempt.holder}", 60)
        self.executor(attempt).claim(f"h:{attempt.holder}", "w", 60.0)

    def report(self, attempt: Attempt) -> None:
        self.executor(attempt).report("SUCCEEDED")
        self.executor(attempt).reported(1e6)

    def executor(self, attempt: Attempt) -> ExecutorAttempt:
        return ExecutorAttempt(self.client, attempt, attempt.token)

    def release(self, attempt: Attempt, gpu_class: GpuClass = T4, code: int = 0) -> None:
        self.line.release(gpu_class, attempt, explain(code), f"h:{attempt.holder}")

    def turn(self) -> None:
        [turn] = self.turns.take([T4])
        assert isinstance(turn, Turn)
        for delivery, _ in turn.accepted:
            self.line.enqueue(T4, delivery)
        for delivery, _ in turn.finishing:
            self.line.finish_claim("t4", delivery, "me", 15)
            self.line.finished("t4", delivery, "me", "EXPIRED")

    def go_on(self) -> None:
        """A turn, and all that runs ends."""
        self.turn()
        self.look()
        for attempt, _ in self.reader.holders("t4"):
            record = self.reader.record("t4", attempt.delivery) or {}
            if record.get("state") == "launching" and record.get("attempt") == attempt.number:
                own = self.attempt(attempt.delivery)
                self.begin(own)
                self.report(own)
            self.release(attempt)
        self.now += 61

    def look(self) -> None:
        """Note who holds a slot."""
        self.held.update(self.holders())

    def states(self) -> dict[str, str]:
        found = {name: self.reader.record("t4", name) for name in SENT}
        return {name: record["state"] if record else "unknown" for name, record in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_key_of_another_type_for_a_while_costs_no_job(
    schedule_redis: redis.Redis, name: str
) -> None:
    made = Class(schedule_redis)
    made.fill()
    runs, reported = made.attempt("runs"), made.attempt("reported")
    made.look()
    key, aside = class_key("t4", name), class_key("t4", name) + ":aside"
    with suppress(redis.ResponseError):  # there may be none yet
        made.client.rename(key, aside)
    made.client.set(key, "text")
    made.now += 6
    steps: list[Any] = [
        lambda: made.send("new"),
        made.turn,
        lambda: made.release(reported),
        made.turn,
        lambda: made.release(runs),
        lambda: made.line.admit(T4),
        made.turn,
    ]
    for step in steps:
        with suppress(redis.ResponseError, AssertionError):
            step()
    made.client.delete(key)
    with suppress(redis.ResponseError):
        made.client.rename(aside, key)
    made.look()
    made.send("new")
    for attempt in (runs, reported):
        made.release(attempt)
    for _ in range(12):
        made.go_on()
    assert made.states() == dict.fromkeys(SENT, "ended")
    assert made.reader.holders("t4") == []
    books = Usage(made.client).of("t4", 0)
    entries = [f"{each.delivery}#{each.attempt}" for each in books.entries]
    assert len(entries) == len(set(entries))
    assert set(entries) <= made.held
    # Those that the damaged key itself had, or should have got, are told as lost.
    own = name in ("usage", "history")
    assert own or set(entries) == made.held
    assert books.lost == 0 or own
    ends = {each.reason for each in books.entries if each.delivery == "reported"}
    assert ends == {"SUCCEEDED"} or own


BOXES = GpuClass("t4", exclusive_slots=4, domain=NODE)


def half_release(client: redis.Redis) -> tuple[Class, Attempt]:
    """Have Redis stop the release of a job of three GPUs after its slots were freed."""
    made = Class(client)
    made.line.set_nodes(BOXES, {"a": {"shared": 0, "exclusive": 4}})
    Capacities(client, {"t4": BOXES}).note()
    job = Job("three", "shop.train", "t4", "exclusive", gpus=3)
    [granted] = made.line.take_in(BOXES, job.record(), "{}").granted
    made.begin(Attempt.of(granted))
    made.now += 10
    client.set(class_key("t4", "delayed"), "text")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        made.release(Attempt.of(granted), BOXES, -9)
    client.delete(class_key("t4", "delayed"))
    made.now += 50
    return made, Attempt.of(granted)


def three(made: Class) -> list[tuple[int, float, str, bool]]:
    entries = Usage(made.client).of("t4", 0).entries
    return [
        (each.gpus, (each.stop - each.start) / 1e6, each.reason, each.counted)
        for each in entries
        if each.delivery == "three"
    ]


def test_a_release_of_several_slots_is_completed_by_its_repeat(schedule_redis: redis.Redis) -> None:
    made, attempt = half_release(schedule_redis)
    assert three(made) == []
    for _ in range(2):
        made.release(attempt, BOXES, -9)
    assert three(made) == [(3, 10, "INFRA", False)]
    assert made.record("three")["state"] == "delayed"
    assert made.client.hget(class_key("t4", "domains") + ":of", "three#1/2") is None


def test_an_end_that_is_never_told_again_has_an_entry_on_the_next_day(
    schedule_redis: redis.Redis,
) -> None:
    made, attempt = half_release(schedule_redis)
    Capacities(made.client, {"t4": BOXES}).note()
    assert three(made) == []
    made.now += 2 * 86_400
    Capacities(made.client, {"t4": BOXES}).note()
    assert three(made) == [(3, 10, "INFRA", False)]
    made.release(attempt, BOXES, -9)
    assert len(three(made)) == 1


@pytest.mark.parametrize("damage", ["{", "[]", '{"start": "1", "stop": "2"}'])
def test_a_damaged_entry_of_a_half_release_is_forgotten(
    schedule_redis: redis.Redis, damage: str
) -> None:
    made, attempt = half_release(schedule_redis)
    key = class_key("t4", "usage")
    [name] = [each for each in made.client.hkeys(key) if str(each).startswith("#open ")]
    assert name == f"#open {attempt.holder}"
    made.client.hset(key, str(name), damage)
    made.now += 2 * 86_400
    Capacities(made.client, {"t4": BOXES}).note()
    assert not made.client.hexists(key, str(name)) and three(made) == []
    made.release(attempt, BOXES, -9)
    assert made.record("three")["state"] == "delayed"


def test_a_release_without_a_slot_fails_with_its_own_error(schedule_redis: redis.Redis) -> None:
    made = Class(schedule_redis)
    made.send("runs")
    made.begin(made.attempt("runs"))
    attempt = made.attempt("runs")
    made.client.delete(class_key("t4", "holders_shared"))
    made.client.set(class_key("t4", "delayed"), "text")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        made.release(attempt, code=-9)
    made.client.delete(class_key("t4", "delayed"))
    made.release(attempt, code=-9)
    assert Usage(made.client).of("t4", 0).entries == []


def test_a_slot_without_a_job_is_freed_with_an_entry(schedule_redis: redis.Redis) -> None:
    made = Class(schedule_redis)
    made.send("runs")
    attempt = made.attempt("runs")
    for key in ("jobs", "messages"):
        made.client.delete(class_key("t4", key))
    made.release(attempt, code=-9)
    [entry] = Usage(made.client).of("t4", 0).entries
    assert (entry.delivery, entry.reason, entry.counted) == ("runs", "ERROR", False)
    assert made.holders() == []


def test_a_damaged_key_for_people_keeps_no_attempt_from_its_entry(
    schedule_redis: redis.Redis,
) -> None:
    made = Class(schedule_redis)
    job = Job("big", "shop.train", "t4", "shared", tenant="vision")
    [granted] = made.line.take_in(T4, job.record(), "{}").granted
    attempt = Attempt.of(granted)
    made.begin(attempt)
    made.executor(attempt).loaded()
    made.report(attempt)
    made.client.hset(
        class_key("t4", "jobs"), "big", json.dumps(made.record("big") | {"gpu_memory_own": 10**9})
    )
    made.client.set(class_key("t4", "task_memory_at"), "text")
    made.release(attempt)
    [entry] = Usage(made.client).of("t4", 0).entries
    assert (entry.memory_own, entry.reason) == (10**9, "SUCCEEDED")
