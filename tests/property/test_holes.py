"""Schedules worth a name: each was, or could have been, a leaked slot, a lost job or a result
written twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import StaleAttempt
from gpuqueue.glue.results.completion import exception_of
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import EXIT_MARGIN, REPORT_TIMEOUT, ExecutorAttempt
from gpuqueue.store.cancels import REVOKED_FOR
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.support.model_time import Timed

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1, exclusive_patience=2)


@dataclass
class Queue(Timed):
    """A class with its clock, and a few steps of a job's way at once."""

    client: redis.Redis

    def __post_init__(self) -> None:
        self.client.flushdb()
        self.now = 1_000_000.0
        self.line = Line(self.client, max_attempts=2, keep=1000)
        self.line.open("t4")
        self.reader = Reader(self.client)

    def submit(self, name: str, isolation: str = "shared", **more: Any) -> list[Record]:
        record: Any = {
            "delivery": name,
            "id": name.partition("~")[0],
            "isolation": isolation,
            "gpu_class": "t4",
        } | more
        retries, _, nesting = name.partition("~")[2].partition(".")
        record |= {"retries": int(retries or 0), "nesting": int(nesting or 0)}
        return self.line.take_in(T4, record, "{}").granted

    def run(self, name: str, isolation: str = "shared", **more: Any) -> ExecutorAttempt:
        [granted] = self.submit(name, isolation, **more)
        executor = self.executor(granted)
        executor.claim("h:n:1", "w")
        return executor

    def executor(self, granted: Record) -> ExecutorAttempt:
        attempt, token = Attempt.of(granted), granted["token"]
        return ExecutorAttempt(self.client, attempt, token)

    def claimed(
        self, limit: float | None, loads_within: float | None, *, loaded: bool
    ) -> ExecutorAttempt:
        """Start job ``a``; its process has this long to load its application, and may have."""
        more: dict[str, Any] = {"time_limit": limit} if limit else {}
        [granted] = self.submit("a", **more)
        executor = self.executor(granted)
        executor.claim("h:n:1", "w", loads_within)
        if loaded:
            assert executor.loaded()
        return executor

    def ends(
        self,
        executor: ExecutorAttempt,
        reason: EndReason = EndReason.INFRA,
        instance: str = "h:n:1",
    ) -> Any:
        return self.line.release(T4, executor.attempt, End(reason, "gone"), instance)

    def state(self, name: str) -> str:
        record = self.reader.record("t4", name)
        return record["state"] if record else "unknown"

    def holds(self) -> list[str]:
        return [attempt.delivery for attempt, _ in self.reader.holders("t4")]


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def test_a_failed_launch_beside_a_repaired_one_frees_no_slot(
    queue: Queue,
) -> None:
    executor = queue.run("a")
    assert queue.ends(executor, instance="", reason=EndReason.INFRA).freed is False
    assert (queue.holds(), queue.state("a")) == (["a"], "running")


def test_a_process_after_its_start_timeout_is_refused_and_its_job_retried(
    queue: Queue,
) -> None:
    [granted] = queue.submit("a")
    queue.line.launched(Attempt.of(granted), "h:n:1", 5)
    queue.now += 6
    queue.line.tick("t4")
    with pytest.raises(StaleAttempt, match="out of time"):
        queue.executor(granted).claim("h:n:1", "w")
    assert queue.ends(queue.executor(granted), reason=EndReason.ERROR).state == "delayed"


def test_an_older_delivery_adopted_later_is_not_the_newest(queue: Queue) -> None:
    found: Any = {"id": "a", "attempt": 1, "token": "x", "isolation": "shared", "gpu_class": "t4"}
    for retries in (2, 1):
        delivery = f"a~{retries}"
        assert queue.line.adopt(
            "t4", found | {"delivery": delivery, "retries": retries, "instance": f"h:n:{retries}"}
        )
    newest = queue.reader.find("a", ["t4"])
    assert newest and newest["delivery"] == "a~2"


def test_two_leaders_adopt_one_process_and_both_may_keep_it(queue: Queue) -> None:
    found: Any = {
        "delivery": "a",
        "id": "a",
        "attempt": 1,
        "token": "x",
        "isolation": "shared",
        "gpu_class": "t4",
    }
    assert queue.line.adopt("t4", found | {"instance": "h:n:1"})
    assert queue.line.adopt("t4", found | {"instance": "h:n:1"})
    assert queue.line.adopt("t4", found | {"token": "stale"}) is False
    assert queue.holds() == ["a"]


def test_an_adopted_job_without_its_message_ends_instead_of_retrying(
    queue: Queue,
) -> None:
    found: Any = {
        "delivery": "a",
        "id": "a",
        "attempt": 1,
        "token": "x",
        "isolation": "shared",
        "gpu_class": "t4",
    }
    queue.line.adopt("t4", found | {"instance": "h:n:1"})
    with pytest.raises(StaleAttempt, match="message lost"):
        queue.executor(found).claim("h:n:1", "w")
    assert queue.ends(queue.executor(found)).state == "finishing"


def test_a_retry_on_its_way_while_its_job_is_cancelled_is_cancelled_too(
    queue: Queue,
) -> None:
    executor = queue.run("a")
    assert queue.line.cancel("t4", "a") == "stopping"
    queue.ends(executor, reason=EndReason.ERROR)
    assert queue.submit("a~1") == []
    assert queue.state("a~1") == "finishing"


def test_a_job_revoked_without_terminate_runs_on_but_its_retry_does_not(
    queue: Queue,
) -> None:
    executor = queue.run("a")
    assert queue.line.cancel("t4", "a", terminate=False) == "running"
    executor.report("RETRIED")
    queue.submit("a~1")
    assert (queue.state("a"), queue.state("a~1")) == ("reporting", "finishing")


def test_the_mark_of_a_revoked_task_is_forgotten_in_time(queue: Queue) -> None:
    assert queue.line.cancel("t4", "later") == "unknown"
    queue.now += REVOKED_FOR + 1
    queue.line.tick("t4")
    assert [each["delivery"] for each in queue.submit("later")] == ["later"]


def test_a_job_can_expire_in_the_pause_before_its_second_attempt(queue: Queue) -> None:
    [granted] = queue.submit("a", expires=queue.now + 10)
    queue.ends(queue.executor(granted), instance="")
    queue.line.enqueue(T4, "a")
    for name in ("b", "c"):
        queue.run(name)
    queue.now += 5
    queue.line.tick("t4")
    assert queue.state("a") == "waiting"
    queue.now += 5
    queue.line.tick("t4")
    assert queue.state("a") == "finishing"


@pytest.mark.parametrize(
    "reason", [EndReason.BAD_SPEC, EndReason.IMAGE, EndReason.QUOTA, EndReason.UNSCHEDULABLE]
)
def test_what_cannot_be_had_is_not_tried_again(queue: Queue, reason: EndReason) -> None:
    [granted] = queue.submit("a")
    assert queue.ends(queue.executor(granted), instance="", reason=reason).state == "finishing"


def test_a_process_that_hangs_in_its_report_is_stopped_and_frees_its_slot(queue: Queue) -> None:
    executor = queue.run("a")
    executor.report("SUCCEEDED")
    queue.now += REPORT_TIMEOUT
    queue.line.tick("t4")
    assert [each.holder for each, _ in queue.reader.todo("t4", queue.now).stopping] == ["a#1"]
    assert queue.ends(executor).state == "finishing"
    assert queue.reader.todo("t4", queue.now).stopping == []


def test_a_process_that_has_reported_and_does_not_end_is_stopped(queue: Queue) -> None:
    executor = queue.run("a")
    executor.report("SUCCEEDED")
    assert executor.reported(1000, grace=7)
    queue.now += 7
    queue.line.tick("t4")
    assert queue.reader.todo("t4", queue.now).stopping == [], "it ends itself first"
    queue.now += EXIT_MARGIN
    queue.line.tick("t4")
    assert [each.holder for each, _ in queue.reader.todo("t4", queue.now).stopping] == ["a#1"]
    record = queue.reader.record("t4", "a")
    assert record and record["instance"] == "h:n:1", "the watcher must know whom to stop"
    assert queue.ends(executor).freed and queue.state("a") == "ended"


#: A time with more digits than a record keeps.
PRECISE = 1_795_601_830.679_789


@pytest.mark.parametrize(
    ("limit", "loads_within", "loaded", "after", "word"),
    [
        (None, 5, False, 5, "load"),
        (None, 5, True, 10_000, None),
        (9, 5, False, 5, "load"),
        (9, 5, True, 9, "run"),
        (5, 5, False, 5, "run"),
        (3, 5, False, 3, "run"),
        (9, None, False, 9, "run"),
        (None, None, False, 10_000, None),
    ],
)
def test_an_import_has_a_deadline_until_the_application_is_loaded(
    queue: Queue,
    limit: float | None,
    loads_within: float | None,
    loaded: bool,
    after: float,
    word: str | None,
) -> None:
    queue.now = PRECISE
    executor = queue.claimed(limit, loads_within, loaded=loaded)
    queue.now += after + 0.001
    queue.line.tick("t4")
    record = queue.reader.record("t4", "a")
    assert record and record.get("timed_out") == word
    assert len(queue.reader.todo("t4", queue.now).stopping) == bool(word)
    if word == "load":
        assert executor.loaded() is False, "too late"
        assert queue.ends(executor, reason=EndReason.ERROR).state == "delayed"


@pytest.mark.parametrize(
    ("limit", "loads_within", "loaded", "until", "word"),
    [
        (None, 5, False, 9, "load"),
        (12, 5, False, 9, "load"),
        (8, 5, False, 8, "run"),
        (3, 5, False, 3, "run"),
        (12, 5, True, 12, "run"),
        (None, 5, True, 10_000, None),
        (12, None, False, 12, "run"),
    ],
)
def test_repeated_claim_begins_the_time_of_the_import_again(
    queue: Queue,
    limit: float | None,
    loads_within: float | None,
    loaded: bool,
    until: float,
    word: str | None,
) -> None:
    began = queue.now = PRECISE
    executor = queue.claimed(limit, loads_within, loaded=loaded)
    queue.now = began + min(4, until - 1)
    executor.claim("h:n:1", "w", loads_within)
    for after, expected in ((until - 0.001, None), (until + 0.001, word)):
        queue.now = began + after
        queue.line.tick("t4")
        record = queue.reader.record("t4", "a")
        assert record and record.get("timed_out") == expected
        assert record["started"] == pytest.approx(began)


def test_a_repeated_claim_without_a_time_for_the_import_keeps_the_first(queue: Queue) -> None:
    [granted] = queue.submit("a")
    queue.executor(granted).claim("h:n:1", "w", 5)
    queue.now += 4
    queue.executor(granted).claim("h:n:1", "w")
    queue.now += 2
    queue.line.tick("t4")
    record = queue.reader.record("t4", "a")
    assert record and record.get("timed_out") == "load"


def test_the_limit_of_the_task_itself_replaces_that_of_its_import(queue: Queue) -> None:
    queue.now = PRECISE
    [granted] = queue.submit("a")
    executor = queue.executor(granted)
    executor.claim("h:n:1", "w", 5)
    assert executor.loaded(60)
    queue.now += 59
    queue.line.tick("t4")
    assert queue.reader.todo("t4", queue.now).stopping == []
    queue.now += 2
    queue.line.tick("t4")
    record = queue.reader.record("t4", "a")
    assert record and record.get("timed_out") == "run"


def test_events_go_out_with_what_an_executor_writes(queue: Queue) -> None:
    monitor: Any = queue.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    with monitor:
        monitor.subscribe("events")
        executor = queue.run("a")
        executor.loaded(events=[("events", "begun"), ("events", "ä")])
        executor.report("SUCCEEDED")
        executor.reported(60, events=[("events", "ended")])
        executor.reported(60, events=[("events", "again")])  # its answer was lost
        heard: list[str] = []
        while len(heard) < 4:
            message = monitor.get_message(timeout=10)
            heard += [message["data"]] if message else []
    assert heard == ["begun", "ä", "ended", "again"]


def test_events_of_a_refused_write_are_heard_once(queue: Queue) -> None:
    monitor: Any = queue.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    with monitor:
        monitor.subscribe("events")
        executor = queue.run("a")
        executor.report("SUCCEEDED")
        kwargs = queue.client.connection_pool.connection_kwargs
        impatient = redis.Redis(host=kwargs["host"], port=kwargs["port"], decode_responses=True)
        hasty = ExecutorAttempt(impatient, executor.attempt, executor.token)
        queue.client.config_set("min-replicas-to-write", 1)
        try:
            for _ in range(2):
                with pytest.raises(redis.ResponseError, match="NOREPLICAS"):
                    hasty.reported(60, events=[("events", "ended")])
        finally:
            queue.client.config_set("min-replicas-to-write", 0)
            impatient.close()
        assert executor.reported(60, events=[("events", "ended")])
        executor.reported(60, events=[("events", "last")])
        heard: list[str] = []
        while "last" not in heard:
            message = monitor.get_message(timeout=10)
            heard += [message["data"]] if message else []
    assert heard == ["ended", "last"]


def test_nothing_is_written_for_an_ignored_task_whose_report_died(
    queue: Queue,
) -> None:
    executor = queue.run("a")
    executor.report("IGNORED")
    queue.ends(executor, reason=EndReason.ERROR)
    assert queue.line.finish_claim("t4", "a", "f", 60)[0] == "superseded"
    record = queue.reader.record("t4", "a")
    assert record and (record["state"], record["reason"]) == ("ended", "IGNORED")


def test_a_process_evicted_after_it_sent_its_retry_is_not_retried(
    queue: Queue,
) -> None:
    executor = queue.run("a")
    queue.submit("a~1")
    assert queue.ends(executor, reason=EndReason.EVICTED).state == "finishing"
    assert queue.line.finish_claim("t4", "a", "f", 60)[0] == "superseded"


def test_a_cancel_takes_also_an_older_delivery_that_is_tried_again(queue: Queue) -> None:
    executor = queue.run("a")
    assert queue.ends(executor, reason=EndReason.EVICTED).state == "delayed"
    queue.submit("a~1")  # sent before the eviction, come after it
    assert queue.line.cancel("t4", "a") == "stopping"
    assert (queue.state("a"), queue.state("a~1")) == ("finishing", "launching")


@pytest.mark.parametrize("successor", ["a~1", "a~0.1"])
def test_a_process_that_died_after_its_successor_leaves_the_result_to_it(
    queue: Queue, successor: str
) -> None:
    executor = queue.run("a")
    queue.submit(successor)
    queue.ends(executor, reason=EndReason.ERROR)
    assert queue.line.finish_claim("t4", "a", "f", 60)[0] == "superseded"


def test_a_retried_and_replaced_task_leaves_the_result_to_its_successor(
    queue: Queue,
) -> None:
    executor = queue.run("a~2")
    queue.submit("a~0.1")
    queue.ends(executor, reason=EndReason.ERROR)
    assert queue.line.finish_claim("t4", "a~2", "f", 60)[0] == "superseded"


def test_a_gate_closed_for_a_cancelled_job_is_open_again_for_the_next(queue: Queue) -> None:
    first = [queue.run("s0"), queue.run("s1")]
    queue.submit("e0", "exclusive")
    for turn, executor in enumerate(first):
        queue.submit(f"later{turn}")
        queue.ends(executor)
    queue.submit("shut out")
    assert queue.line.cancel("t4", "e0") == "cancelled"
    assert queue.submit("e1", "exclusive") == [], "two shared jobs run"
    why = queue.reader.why(T4, "shut out")
    assert why and why.reason == "NO_FREE_SLOT", "e1 is not overtaken yet"


def test_a_later_shared_job_of_better_priority_counts_as_overtaking(
    queue: Queue,
) -> None:
    running = [queue.run("s0"), queue.run("s1")]
    queue.submit("e0", "exclusive", priority=3)
    for turn in range(3):
        queue.submit(f"urgent{turn}", priority=0)
    started = [
        record["delivery"] for executor in running for record in queue.ends(executor).granted
    ]
    assert started == ["urgent0", "urgent1"]
    why = queue.reader.why(T4, "urgent2")
    assert why and why.reason == "DRAINING_FOR_EXCLUSIVE", "exclusive_patience is 2"


def test_jobs_of_an_isolation_without_slots_block_nothing_and_can_cancel(
    queue: Queue,
) -> None:
    queue.run("s0")
    queue.submit("e0", "exclusive")
    without = GpuClass("t4", shared_slots=4, exclusive_slots=0, exclusive_patience=1)
    for turn in range(3):
        queue.line.accept(
            "t4", {"delivery": f"n{turn}", "id": f"n{turn}", "isolation": "shared"}, "{}"
        )
        assert [each["delivery"] for each in queue.line.enqueue(without, f"n{turn}")] == [
            f"n{turn}"
        ]
    assert queue.line.cancel("t4", "e0") == "cancelled"


def test_a_slot_of_a_class_that_lost_all_its_slots_is_freed_all_the_same(queue: Queue) -> None:
    executor = queue.run("a")
    assert queue.line.release(GpuClass("t4"), executor.attempt, instance="h:n:1").freed
    assert queue.holds() == []


def test_a_cancelled_launch_whose_process_never_comes_is_freed_without_one(queue: Queue) -> None:
    [granted] = queue.submit("a")
    assert queue.line.cancel("t4", "a") == "stopping"
    assert queue.ends(queue.executor(granted), instance="").state == "finishing"
    assert queue.holds() == [] and queue.reader.todo("t4", queue.now).stopping == []


def test_releasing_an_unknown_job_admits_the_next_and_breaks_nothing(
    queue: Queue,
) -> None:
    answer = queue.line.release(T4, Attempt("t4", "unknown", 1))
    assert (answer.freed, answer.state, answer.granted) == (False, "", [])


def test_after_a_loss_of_redis_no_job_starts_beside_an_unknown_one(
    queue: Queue,
) -> None:
    queue.run("a", "shared")
    queue.client.flushdb()
    assert queue.submit("b", "exclusive") == []
    why = queue.reader.why(T4, "b")
    assert why is not None and why.reason == "REPAIRING"
    labels: Any = {
        "delivery": "a",
        "id": "a",
        "isolation": "shared",
        "gpu_class": "t4",
        "attempt": 1,
        "token": "t",
    }
    assert queue.line.adopt("t4", labels | {"instance": "h:n:1"})
    assert queue.line.open("t4")
    assert queue.line.admit(T4) == []
    assert [
        record["id"]
        for record in queue.line.release(T4, Attempt("t4", "a", 1), instance="h:n:1").granted
    ] == ["b"]
    assert not queue.line.open("t4")


def test_an_attempt_stopped_for_a_late_start_keeps_that_reason(
    queue: Queue,
) -> None:
    for number in (1, 2):  # as often as attempts are allowed
        granted = queue.submit("a")[0] if number == 1 else queue.line.admit(T4)[0]
        queue.line.launched(Attempt.of(granted), "ns/job", 5)
        queue.now += 6
        queue.line.tick("t4")
        state = queue.ends(queue.executor(granted), EndReason.POD_DELETED, "ns/job/uid").state
        assert state == ("delayed", "finishing")[number - 1]
        queue.now += 6
        queue.line.tick("t4")
    record = queue.reader.record("t4", "a")
    assert record and (record["reason"], record["timed_out"]) == ("INFRA", "start")


def test_times_lie_in_redis_with_every_digit(queue: Queue) -> None:
    queue.client.flushdb()
    queue.now = 1_764_338_079.123457
    queue.line.open("t4")
    assert queue.client.hget(class_key("t4", "gate"), "opened") == f"{queue.now:.6f}"
    [granted] = queue.submit("a")
    [(_, since)] = queue.reader.holders("t4")
    assert since == queue.now
    queue.line.launched(Attempt.of(granted), "h:n:1", 60.1)
    deadlines = queue.client.zrange(class_key("t4", "deadlines"), 0, -1, withscores=True)
    assert deadlines == [("a#1", queue.now + 60.1)]


# -- launches that are not confirmed ---------------------------------------------------------------


def test_a_launch_that_stays_unconfirmed_is_repeated_and_given_up(
    queue: Queue,
) -> None:
    [granted] = queue.submit("a")
    attempt = Attempt.of(granted)
    queue.line.observed([Observation(attempt, WaitReason.LAUNCH_REFUSED, "no answer")])
    waits, began = [], queue.now
    while not (queue.reader.record("t4", "a") or {}).get("doomed"):
        queue.now += 1
        assert queue.now - began < 1000, "this does not end"
        if queue.line.relaunch(attempt, 5, 4):
            waits.append(queue.now - began)
    assert waits == [5, 5 + 10, 5 + 10 + 20, 5 + 10 + 20 + 40]
    record = queue.reader.record("t4", "a")
    assert record
    assert record["doom_error"] == "its launch was not confirmed in 5 tries: no answer"
    assert queue.line.relaunch(attempt, 5, 4) is None
    assert queue.ends(queue.executor(granted), instance="").state == "delayed"
    queue.now += 2
    queue.line.tick("t4")
    [again] = queue.line.admit(T4)
    assert "launches" not in again and "doomed" not in again, "the next attempt counts from 0"
    queue.now += 100
    for _ in range(5):
        queue.now += 100
        queue.line.relaunch(Attempt.of(again), 5, 4)
    assert queue.ends(queue.executor(again), instance="").state == "finishing"
    record = queue.reader.record("t4", "a")
    assert record and record["reason"] == "INFRA"
    assert str(exception_of(record)).endswith("its launch was not confirmed in 5 tries")


def test_a_postponed_launch_is_not_repeated_before_its_time(queue: Queue) -> None:
    [granted] = queue.submit("a")
    attempt = Attempt.of(granted)
    queue.line.observed([Observation(attempt, WaitReason.QUOTA, "full", launch_in=30)])
    queue.now += 29
    assert queue.line.relaunch(attempt, 5, 4) is None
    assert queue.line.relaunch(attempt, -0.2) is None
    queue.now += 0.9
    assert queue.line.relaunch(attempt, -0.2), "its own dispatcher, at its time"
    queue.line.observed([Observation(attempt, WaitReason.QUOTA, "full", launch_in=30)])
    queue.now += 36
    assert queue.line.relaunch(attempt, 5, 4), "its dispatcher is gone"


@pytest.mark.parametrize("field", ["doomed", "timed_out"])
def test_a_launch_that_was_given_up_is_not_repeated(queue: Queue, field: str) -> None:
    [granted] = queue.submit("a")
    attempt = Attempt.of(granted)
    if field == "doomed":
        queue.line.give_up(attempt, End(EndReason.INFRA, "no pod"))
    else:
        queue.line.observed([Observation(attempt, claim_within=1)])
    queue.now += 10
    queue.line.tick("t4")
    assert field in (queue.reader.record("t4", "a") or {})
    assert queue.line.relaunch(attempt, 5) is None
    assert queue.holds() == ["a"]
    assert queue.ends(queue.executor(granted), instance="").state == "delayed"
