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
from gpuqueue.store.scripts import Scripts
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=1)


class Queue(OpenClass):
    """A class with one attempt, which has not been claimed."""

    def start(self, **more: Any) -> None:
        record: Any = {"delivery": "a", "id": "a", "isolation": "shared", "gpu_class": "t4"}
        [granted] = self.line.take_in(T4, record | more, "{}").granted
        self.attempt = Attempt.of(granted)

    def call(
        self, verb: str, instance: str = "h:n:1", claimed: dict[str, Any] | None = None, **more: Any
    ) -> Any:
        """Call a verb of the executor that claimed the attempt; ``claimed``: what it says of it."""
        said = {"instance": instance, "worker": "w", "started": self.now} | (claimed or {})
        context = {"delivery": "a", "attempt": 1, "token": self.attempt.token, "claimed": said}
        return Scripts(self.client).call(verb, "t4", **context, instance=instance, **more)

    def end(self, reason: EndReason) -> str:
        return self.line.release(T4, self.attempt, End(reason, "gone"), "h:n:1").state

    def time_of(self, key: str) -> float | None:
        """Return the time that a key has for the attempt."""
        return self.client.zscore(class_key("t4", key), "a#1")

    def own_record(self) -> Record:
        return self.record("a")


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


@pytest.mark.parametrize(
    ("declared", "seconds"), [(30, 30), (90, 60), (None, 20)], ids=["below", "above", "none"]
)
def test_a_limit_that_the_task_declares_is_cut_to_the_largest(
    queue: Queue, declared: float | None, seconds: float
) -> None:
    queue.start(time_limit=20, max_time_limit=60)
    queue.line.launched(queue.attempt, "h:n:1", 60)
    queue.call("claim", worker="w", loads_within=10)
    assert queue.call("loaded", seconds=declared)
    assert queue.own_record()["time_limit"] == seconds
    assert queue.time_of("deadlines") == queue.now + seconds


def test_a_lost_word_of_a_declared_limit_is_cut_to_the_largest(queue: Queue) -> None:
    queue.start(max_time_limit=60)
    assert queue.call("sampled", claimed={"loaded": True, "time_limit": 90})
    assert queue.time_of("deadlines") == queue.now + 60


@pytest.mark.parametrize("verb", ["loaded", "sampled", "report", "reported"])
def test_a_lost_claim_of_another_process_than_the_launched_one_counts(
    queue: Queue, verb: str
) -> None:
    queue.start()
    queue.line.launched(queue.attempt, "h:n:1", 60)
    assert queue.call(verb, "h:n:2", outcome="SUCCEEDED", within=60, keep=1000)
    assert queue.own_record()["instance"] == "h:n:2"


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
    assert queue.own_record()["state"] == "running"
    assert (queue.time_of("stopping") is not None) is cancelled


def test_a_word_after_the_report_takes_no_report_back(queue: Queue) -> None:
    queue.start()
    queue.call("claim", worker="w")
    assert queue.call("report", outcome="SUCCEEDED", within=60) == "ok"
    assert queue.call("sampled", claimed={"loaded": True})
    assert queue.own_record()["state"] == "reporting"
    assert queue.time_of("deadlines") == queue.now + 60


@pytest.mark.parametrize(
    ("loaded", "loading", "seconds"), [(True, None, 90), (False, 1, 10)], ids=["loaded", "not yet"]
)
def test_a_lost_word_that_the_application_is_loaded_is_said_again(
    queue: Queue, loaded: bool, loading: int | None, seconds: float
) -> None:
    queue.start()
    queue.call("claim", worker="w", loads_within=10)
    said = {"loaded": True, "time_limit": 90} if loaded else {"loads_within": 10}
    assert queue.call("sampled", claimed=said)
    assert queue.own_record().get("loading") == loading
    assert queue.time_of("deadlines") == queue.now + seconds


def test_an_attempt_that_is_out_of_time_gets_no_second_deadline(queue: Queue) -> None:
    queue.start(time_limit=5)
    queue.call("claim", worker="w")
    queue.now += 6
    queue.line.tick("t4")
    assert queue.own_record()["timed_out"] == "run"
    assert queue.call("sampled", claimed={"loaded": True, "time_limit": 90})
    assert (queue.own_record()["timed_out"], queue.time_of("deadlines")) == ("run", None)


def test_a_process_that_has_written_is_not_stopped_for_its_time_limit(queue: Queue) -> None:
    """Redis has lost its report, which came in time."""
    queue.start(time_limit=5)
    queue.call("claim", worker="w")
    queue.now += 6
    queue.line.tick("t4")
    assert queue.time_of("stopping") is not None
    assert queue.call("reported", outcome="SUCCEEDED", within=60, keep=1000) == 1
    assert queue.time_of("stopping") is None


def test_an_attempt_that_runs_does_not_expire(queue: Queue) -> None:
    queue.start()
    queue.call("claim", worker="w")
    queue.client.zadd(class_key("t4", "expiring"), {"a": queue.now - 1})
    queue.line.tick("t4")
    assert queue.own_record()["state"] == "running"


def test_an_adopted_attempt_learns_from_its_process_how_it_began(queue: Queue) -> None:
    queue.start()
    found: Any = {**queue.own_record(), "token": queue.attempt.token, "instance": "h:n:1"}
    queue.client.flushdb()
    queue.now += 50
    assert queue.line.adopt("t4", found)
    assert queue.call("sampled", claimed={"started": queue.now - 50, "worker": "shop@h"})
    record = queue.own_record()
    assert (record["started"], record["worker"]) == (queue.now - 50, "shop@h")


@pytest.mark.parametrize(("nodes", "avoided"), [("aba", "ab"), ("abcdef", "fedcb")])
def test_a_job_avoids_each_of_the_last_five_nodes_at_fault(
    queue: Queue, nodes: str, avoided: str
) -> None:
    queue.line = Line(queue.client, max_attempts=99)
    queue.start()
    for node in nodes:
        end = End(EndReason.NODE_LOST, "gone", avoid=node)
        queue.line.release(T4, queue.attempt, end)
        queue.now += 61
        queue.line.tick("t4")
        [granted] = queue.line.admit(T4)
        queue.attempt = Attempt.of(granted)
    assert queue.own_record()["avoid"] == list(avoided)
