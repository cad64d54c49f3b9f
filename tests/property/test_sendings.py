"""A message whose id is known: the broker delivered it again, or its sender has sent it again."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.job import Job
from gpuqueue.model.names import REFUSED, delivery_name
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=9)
FIRST, SECOND, THIRD = "tag-1", "tag-2", "tag-3"
HASHES = ("jobs", "messages", "latest", "revoked")


class Queue(OpenClass):
    """A class that takes messages, each with the tag of its sending."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, keep=1000)
        self.granted: dict[str, Record] = {}

    def send(self, tag: str = "", *, job: str = "a", retries: int = 0, nesting: int = 0) -> str:
        """Take a message in; return what became of it."""
        made = Job(job, "t", "t4", "shared", retries=retries, nesting=nesting, tag=tag)
        record = made.record()
        taken = self.line.take_in(T4, record, f'"{tag}"', made.again)
        self.granted |= {each["delivery"]: each for each in taken.granted}
        self.delivery = record["delivery"]
        return taken.outcome

    def claim(self, delivery: str) -> ExecutorAttempt:
        granted = self.granted[delivery]
        executor = ExecutorAttempt(self.client, Attempt.of(granted), granted["token"])
        executor.claim("h:n:1", "w")
        return executor

    def report(self, delivery: str, outcome: str = "SUCCEEDED") -> ExecutorAttempt:
        executor = self.claim(delivery)
        executor.report(outcome)
        return executor

    def run(self, delivery: str, outcome: str = "SUCCEEDED") -> None:
        """Run a job to its end."""
        executor = self.report(delivery, outcome)
        assert executor.reported(1000)
        self.release(executor.attempt, EndReason.INFRA)

    def release(self, attempt: Attempt, reason: EndReason) -> str:
        return self.line.release(T4, attempt, End(reason, "gone"), "h:n:1").state

    def newest(self) -> str:
        found = self.reader.find("a", ["t4"])
        assert found is not None
        return found["delivery"]

    def message(self, delivery: str) -> Any:
        return self.client.hget(class_key("t4", "messages"), delivery)

    def kept(self) -> list[Any]:
        """Return what is kept of all deliveries."""
        hashes = [self.client.hgetall(class_key("t4", name)) for name in HASHES]
        return [*hashes, self.client.zrange(class_key("t4", "repeats"), 0, -1)]


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def named(tag: str, retries: int = 0) -> str:
    return delivery_name("a", retries, tag=tag)


@pytest.mark.parametrize("outcome", ["SUCCEEDED", "ERROR", "IGNORED"])
def test_a_message_that_is_sent_again_after_the_end_runs(queue: Queue, outcome: str) -> None:
    assert queue.send(FIRST) == "accepted"
    queue.run("a", outcome)
    assert queue.send(SECOND) == "accepted"
    assert queue.delivery == queue.newest() == named(SECOND)
    queue.run(named(SECOND))
    reasons = [queue.record(each)["reason"] for each in ("a", named(SECOND))]
    assert reasons == [outcome, "SUCCEEDED"]
    assert queue.send(THIRD) == "accepted"


@pytest.mark.parametrize("late", [FIRST, SECOND])
def test_a_message_that_is_delivered_again_after_a_later_run_is_known(
    queue: Queue, late: str
) -> None:
    for tag, delivery in ((FIRST, "a"), (SECOND, named(SECOND)), (THIRD, named(THIRD))):
        assert queue.send(tag) == "accepted"
        queue.run(delivery)
    before = queue.kept()
    assert queue.send(late) == "known"
    assert queue.kept() == before


def test_a_second_run_is_delivered_again_while_it_runs(queue: Queue) -> None:
    queue.send(FIRST)
    queue.run("a")
    queue.send(SECOND)
    queue.claim(named(SECOND))
    queue.client.hdel(class_key("t4", "messages"), named(SECOND))
    assert queue.send(SECOND) == "known"
    assert queue.message(named(SECOND)) == f'"{SECOND}"', "it may have been adopted without one"
    assert queue.message("a") is None


@pytest.mark.parametrize("retries", [0, 1])
def test_a_second_run_that_was_adopted_alone_is_known(queue: Queue, retries: int) -> None:
    """Redis has lost all that it knew, and the broker has not."""
    name = named(SECOND, retries)
    found: Any = {"id": "a", "delivery": name, "attempt": 1, "token": "x", "isolation": "shared"}
    assert queue.line.adopt("t4", found | {"gpu_class": "t4", "retries": retries})
    assert queue.send(SECOND, retries=retries) == "known"
    assert queue.delivery == name


@pytest.mark.parametrize("known", ["", FIRST])
def test_a_message_without_a_tag_is_known_by_its_id_alone(queue: Queue, known: str) -> None:
    """Senders in other languages give none, and older dispatchers keep none."""
    queue.send(known)
    queue.run("a")
    assert queue.send("" if known else SECOND) == "known"


@pytest.mark.parametrize("state", ["waiting", "launching", "running", "delayed"])
def test_a_message_that_is_sent_again_too_soon_is_dropped(queue: Queue, state: str) -> None:
    if state == "waiting":
        queue.client.delete(class_key("t4", "gate"))
    queue.send(FIRST)
    if state in ("running", "delayed"):
        executor = queue.claim("a")
        if state == "delayed":
            queue.release(executor.attempt, EndReason.INFRA)
    assert queue.record("a")["state"] == state
    before = queue.kept()
    assert queue.send(SECOND) == "busy"
    assert queue.kept() == before


def test_a_message_waits_while_the_first_job_notes_its_end(queue: Queue) -> None:
    queue.send(FIRST)
    executor = queue.report("a")
    before = queue.kept()
    assert queue.send(SECOND) == "ending", "its sender may have seen the result"
    assert queue.kept() == before
    executor.reported(1000)
    assert queue.send(SECOND) == "accepted", "the process of the first may run on"


def test_a_message_waits_while_a_dispatcher_finishes_the_first_job(queue: Queue) -> None:
    queue.send(FIRST)
    queue.release(queue.claim("a").attempt, EndReason.ERROR)
    assert queue.send(SECOND) == "ending"
    queue.line.finish_claim("t4", "a", "f", 60)
    queue.line.finished("t4", "a", "f", "ERROR")
    assert queue.send(SECOND) == "accepted"


def test_a_message_is_dropped_while_a_retry_of_the_first_is_under_way(queue: Queue) -> None:
    queue.send(FIRST)
    queue.run("a", "RETRIED")
    assert queue.send(SECOND) == "busy", "the retry is in the broker"
    queue.send("of the retry", retries=1)
    assert queue.send(SECOND) == "busy"
    executor = queue.report("a~1")
    assert queue.send(SECOND) == "ending"
    executor.reported(1000)
    assert queue.send(SECOND) == "accepted"


@pytest.mark.parametrize("lost", [False, True], ids=["reported", "report lost"])
def test_an_id_whose_retry_went_to_another_class_is_free_here(queue: Queue, lost: bool) -> None:
    queue.send(FIRST)
    executor = queue.claim("a")
    before = queue.client.hget(class_key("t4", "jobs"), "a")
    executor.report("RETRIED", elsewhere=True)
    assert queue.send(SECOND) == "ending"
    if lost:
        assert before is not None
        queue.client.hset(class_key("t4", "jobs"), "a", before)
    assert executor.reported(1000)
    queue.release(executor.attempt, EndReason.INFRA)
    assert queue.record("a")["reason"] == "RETRIED"
    assert queue.send(SECOND) == "accepted"


@pytest.mark.parametrize("first", ["a", "a~1"])
def test_a_message_waits_for_an_older_delivery_that_has_not_ended(queue: Queue, first: str) -> None:
    """The process of a try may end long after the retry that it has sent."""
    queue.send(FIRST)
    if first == "a~1":
        queue.run("a", "RETRIED")
        queue.send("of the retry", retries=1)
    executor = queue.report(first, "RETRIED")
    queue.send("of the last", retries=2)
    queue.run("a~2")
    assert queue.send(SECOND) == "ending"
    executor.reported(1000)
    assert queue.send(SECOND) == "accepted"


def second_run(queue: Queue) -> ExecutorAttempt:
    """Begin a second run, after one with two retries."""
    queue.send(FIRST)
    queue.run("a", "RETRIED")
    for retries in (1, 2):
        queue.send(f"retry {retries}", retries=retries)
        queue.run(f"a~{retries}", "RETRIED" if retries == 1 else "ERROR")
    queue.send(SECOND)
    return queue.claim(named(SECOND))


def test_retries_of_a_second_run_are_no_copies_of_those_of_the_first(queue: Queue) -> None:
    executor = second_run(queue)
    assert queue.send("retry 1 of 2", retries=1) == "accepted"
    executor.report("RETRIED")
    executor.reported(1000)
    assert queue.newest() == named("retry 1 of 2", 1)
    queue.run(queue.newest(), "RETRIED")
    for retries in (2, 3):
        assert queue.send(f"retry {retries} of 2", retries=retries) == "accepted"
        queue.run(queue.delivery, "RETRIED" if retries == 2 else "SUCCEEDED")
    assert queue.newest() == "a~3"
    assert [queue.send(tag, retries=1) for tag in ("retry 1", "retry 1 of 2")] == ["known"] * 2


def test_a_run_sends_each_retry_once(queue: Queue) -> None:
    """An attempt that was given up may have sent the same retry as the next attempt."""
    second_run(queue)
    queue.send("retry 1 of 2", retries=1)
    assert queue.send("once more", retries=1) == "busy"
    queue.run(named("retry 1 of 2", 1))
    assert queue.send("once more", retries=1) == "busy"


@pytest.mark.parametrize("nesting", [0, 1])
def test_a_replaced_task_of_a_second_run_is_another_message(queue: Queue, nesting: int) -> None:
    queue.send(FIRST)
    queue.run("a", "IGNORED")
    queue.send("replaced", nesting=1)
    queue.run("a~0.1")
    queue.send(SECOND)
    queue.claim(named(SECOND))
    assert queue.send("replaced 2", nesting=1, retries=nesting) == "accepted"
    assert queue.newest() == queue.delivery


def test_a_second_run_that_dies_gets_a_result_though_the_first_had_retries(queue: Queue) -> None:
    executor = second_run(queue)
    assert queue.release(executor.attempt, EndReason.ERROR) == "finishing"
    assert queue.line.finish_claim("t4", named(SECOND), "f", 60)[0] == "ok"


def test_a_second_run_that_dies_after_its_retry_gets_none(queue: Queue) -> None:
    executor = second_run(queue)
    queue.send("retry 1 of 2", retries=1)
    queue.release(executor.attempt, EndReason.ERROR)
    assert queue.line.finish_claim("t4", named(SECOND), "f", 60)[0] == "superseded"


def test_a_second_run_that_is_lost_with_the_infrastructure_is_tried_again(queue: Queue) -> None:
    executor = second_run(queue)
    assert queue.release(executor.attempt, EndReason.INFRA) == "delayed"


@pytest.mark.parametrize("at", ["the run", "its retry"])
def test_a_cancel_reaches_the_second_run(queue: Queue, at: str) -> None:
    second_run(queue)
    if at == "its retry":
        queue.send("retry 1 of 2", retries=1)
    assert queue.line.cancel("t4", "a") == "stopping"
    assert queue.record(named(SECOND))["cancel"] == "TERM"


def test_a_revoked_id_stays_revoked_when_it_is_sent_again(queue: Queue) -> None:
    """As on a worker of Celery, which remembers the id."""
    queue.client.delete(class_key("t4", "gate"))
    queue.send(FIRST)
    assert queue.line.cancel("t4", "a") == "cancelled"
    queue.line.finish_claim("t4", "a", "f", 60)
    queue.line.finished("t4", "a", "f", "CANCELLED")
    assert queue.send(SECOND) == "finishing"
    assert queue.record(named(SECOND))["reason"] == "CANCELLED"


def test_an_id_whose_first_end_is_forgotten_is_free_once_no_retry_runs(queue: Queue) -> None:
    queue.send(FIRST)
    queue.run("a", "RETRIED")
    queue.send("of the retry", retries=1)
    queue.now += 1001
    queue.line.tick("t4")
    assert queue.reader.record("t4", "a") is None
    assert queue.send(SECOND) == "busy"
    queue.run("a~1", "ERROR")
    assert queue.send(SECOND) == "accepted"
    executor = queue.claim("a")
    assert queue.newest() == "a"
    queue.release(executor.attempt, EndReason.ERROR)
    assert queue.line.finish_claim("t4", "a", "f", 60)[0] == "ok", "a~1 was not its retry"


def test_a_newest_delivery_without_a_record_keeps_no_message_out(queue: Queue) -> None:
    """Redis has lost it."""
    queue.client.hset(class_key("t4", "latest"), "a", "a~1")
    assert queue.send(FIRST) == "accepted"
    assert queue.newest() == "a"


def test_runs_are_forgotten_one_by_one(queue: Queue) -> None:
    second_run(queue)
    queue.send("retry 1 of 2", retries=1)
    queue.run(named("retry 1 of 2", 1))
    queue.release(Attempt("t4", named(SECOND), 1), EndReason.ERROR)
    queue.line.finish_claim("t4", named(SECOND), "f", 60)
    queue.now += 1001
    queue.line.tick("t4")
    assert not queue.client.exists(*(class_key("t4", name) for name in ("jobs", "latest")))
    assert not queue.client.exists(class_key("t4", "repeats"))


def test_a_task_whose_id_is_the_retry_of_another_is_another_task(queue: Queue) -> None:
    queue.send(FIRST)
    queue.run("a", "RETRIED")
    queue.send("of the retry", retries=1)
    assert queue.send(SECOND, job="a~1") == "accepted"
    queue.run("a~1~0")
    assert queue.send(THIRD, job="a~1") == "accepted"
    assert queue.send(THIRD) == "busy"


def test_a_corrected_message_is_refused_no_longer(queue: Queue) -> None:
    def refuse(tag: str) -> str:
        made = Job("a", "t", REFUSED, "exclusive", tag=tag)
        record: Any = {**made.record(), "reason": "REJECTED"}
        return queue.line.accept(REFUSED, record, "{}", made.again)

    assert (refuse(FIRST), refuse(FIRST), refuse(SECOND)) == ("finishing", "known", "ending")
    assert queue.send(THIRD) == "accepted"
    queue.line.finish_claim(REFUSED, "a", "f", 60)
    queue.line.finished(REFUSED, "a", "f", "REJECTED")
    assert refuse(SECOND) == "finishing"
