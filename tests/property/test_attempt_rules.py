"""Deadlines of an attempt, and its claim that is made again after Redis has lost it."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from gpuqueue.store.scripts import Scripts
from tests.support.model_time import Timed

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=1)


class Queue(Timed):
    """A class with one attempt, which has not been claimed."""

    def __init__(self, client: redis.Redis) -> None:
        client.flushdb()
        self.client, self.now = client, 1_000_000.0
        self.line, self.reader = Line(client), Reader(client)
        self.line.open("t4")

    def start(self, **more: Any) -> None:
        record: Any = {"delivery": "a", "id": "a", "isolation": "shared", "gpu_class": "t4"}
        [granted] = self.line.take_in(T4, record | more, "{}").granted
        self.attempt = Attempt.of(granted)

    def call(self, verb: str, instance: str = "h:n:1", **more: Any) -> Any:
        """Call a verb of the executor that claimed the attempt."""
        claimed = {"instance": instance, "worker": "w", "started": self.now}
        context = {"delivery": "a", "attempt": 1, "token": self.attempt.token, "claimed": claimed}
        return Scripts(self.client).call(verb, "t4", **context, instance=instance, **more)

    def end(self, reason: EndReason) -> str:
        return self.line.release(T4, self.attempt, End(reason, "gone"), "h:n:1").state

    def time_of(self, key: str) -> float | None:
        """Return the time that a key has for the attempt."""
        return self.client.zscore(class_key("t4", key), "a#1")  # type: ignore[return-value]

    def record(self) -> Record:
        found = self.reader.record("t4", "a")
        assert found is not None
        return found


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


@pytest.mark.parametrize(
    ("limit", "loads_within", "seconds"),
    [(None, None, None), (None, 5, 5), (9, None, 9), (9, 5, 5), (5, 9, 5)],
)
def test_a_claimed_attempt_has_the_sooner_of_its_deadlines(
    queue: Queue, limit: float | None, loads_within: float | None, seconds: float | None
) -> None:
    queue.start(**({"time_limit": limit} if limit else {}))
    queue.line.launched(queue.attempt, "h:n:1", 60)
    queue.call("claim", worker="w", loads_within=loads_within)
    assert queue.time_of("deadlines") == (seconds and queue.now + seconds)


@pytest.mark.parametrize(
    ("limit", "state"),
    [(None, "delayed"), (20, "delayed"), (10, "finishing"), (5, "finishing")],
)
def test_only_an_attempt_that_reports_its_import_can_die_in_it(
    queue: Queue, limit: float | None, state: str
) -> None:
    """An executor with a limit that ends no later than its import reports none."""
    queue.start(**({"time_limit": limit} if limit else {}))
    queue.call("claim", worker="w", loads_within=10)
    assert queue.end(EndReason.ERROR) == state


@pytest.mark.parametrize("verb", ["loaded", "sampled", "report", "reported"])
def test_a_lost_claim_of_another_process_than_the_launched_one_counts(
    queue: Queue, verb: str
) -> None:
    queue.start()
    queue.line.launched(queue.attempt, "h:n:1", 60)
    assert queue.call(verb, "h:n:2", outcome="SUCCEEDED", within=60, keep=1000)
    assert queue.record()["instance"] == "h:n:2"


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_lost_claim_keeps_the_stop_of_a_cancel_alone(queue: Queue, cancelled: bool) -> None:
    queue.start()
    queue.line.launched(queue.attempt, "h:n:1", 60)
    if cancelled:
        queue.line.cancel("t4", "a")
    queue.now += 61
    queue.line.tick("t4")
    assert queue.time_of("stopping") is not None, "it was not claimed in time"
    assert queue.call("loaded")
    assert queue.record()["state"] == "running"
    assert (queue.time_of("stopping") is not None) is cancelled
