"""A script that fails half-way keeps what it has written: once its cause is mended, and its steps
are repeated as dispatchers repeat them, each job ends and no slot is held.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import explain
from gpuqueue.model.job import Job
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import NAMES, class_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from gpuqueue.store.turn import Turn, Turns
from tests.support.model_time import Timed

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1)
NOW = 1_000_000.0
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


class Class(Timed):
    """A class with a job in each place, and what dispatchers do for it."""

    def __init__(self, client: redis.Redis) -> None:
        client.flushdb()
        self.client, self.now = client, NOW
        self.line, self.reader = Line(client, by="d1"), Reader(client)
        self.turns = Turns(client, self.line)
        self.line.open("t4")
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

    def release(self, attempt: Attempt) -> None:
        self.line.release(T4, attempt, explain(0), f"h:{attempt.holder}")

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
        for attempt, _ in self.reader.holders("t4"):
            record = self.reader.record("t4", attempt.delivery) or {}
            if record.get("state") == "launching" and record.get("attempt") == attempt.number:
                own = self.attempt(attempt.delivery)
                self.begin(own)
                self.report(own)
            self.release(attempt)
        self.now += 61

    def states(self) -> dict[str, str]:
        found = {name: self.reader.record("t4", name) for name in SENT}
        return {name: record["state"] if record else "unknown" for name, record in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_key_of_another_type_for_a_while_costs_no_job(
    schedule_redis: redis.Redis, name: str
) -> None:
    made = Class(schedule_redis)
    runs, reported = made.attempt("runs"), made.attempt("reported")
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
    made.send("new")
    for attempt in (runs, reported):
        made.release(attempt)
    for _ in range(12):
        made.go_on()
    assert made.states() == dict.fromkeys(SENT, "ended")
    assert made.reader.holders("t4") == []
