"""An attempt to which a process has gone on is adopted, and the one before gives its slot up."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import SHARED
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=4)
ME = "h:n:1"


class Queue(OpenClass):
    """A class whose Redis has come back with an older state."""

    def start(self, name: str, instance: str = ME, **more: Any) -> ExecutorAttempt:
        """Run an attempt, as the state of Redis has it."""
        record: Any = {"delivery": name, "id": name, "isolation": SHARED, "gpu_class": "t4"}
        [granted] = self.line.take_in(T4, record | more, "{}").granted
        self.line.launched(Attempt.of(granted), instance, 60)
        self.now += 5
        executor = ExecutorAttempt(self.client, Attempt.of(granted), granted["token"])
        executor.claim(instance, "w")
        return executor

    def adopt(
        self, name: str, instance: str | None = ME, instead_of: str = "", **more: Any
    ) -> bool:
        """Adopt what the process runs by now."""
        found: Any = {"delivery": name, "id": name, "isolation": SHARED, "gpu_class": "t4"}
        found |= {"attempt": 1, "token": "x"} | ({"instance": instance} if instance else {})
        return self.line.adopt("t4", found | more, 4, instead_of)

    def finishing(self) -> list[str]:
        return [name for name, _ in self.reader.todo("t4", self.now).finishing]

    def calls(self) -> int:
        """How many commands Redis has run until now, those of scripts included."""
        stats: dict[str, Any] = self.client.info("commandstats")
        return sum(each["calls"] for each in stats.values())


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


@pytest.mark.parametrize(
    ("instance", "holders"),
    [(ME, ["b#1"]), ("h:n:2", ["a#1", "b#1"]), (None, ["a#1", "b#1"])],
    ids=["same", "another", "unknown"],
)
def test_an_adoption_frees_the_slot_of_the_same_process_alone(
    queue: Queue, instance: str | None, holders: list[str]
) -> None:
    queue.start("a")
    assert queue.adopt("b", instance)
    assert sorted(queue.holders()) == holders
    assert queue.record("b").get("warm_of") == ("a#1" if instance == ME else None)


def test_an_attempt_that_gives_its_slot_up_keeps_when_it_began(queue: Queue) -> None:
    queue.start("a")
    began = queue.now
    queue.now += 50
    assert queue.adopt("b")
    assert queue.record("a")["started"] == began


def test_a_process_that_runs_its_job_again_does_not_end_it(queue: Queue) -> None:
    """The job failed in it, and it was given the next attempt."""
    executor = queue.start("a")
    assert queue.adopt("a", attempt=2, instead_of=executor.token)
    assert (queue.record("a")["state"], queue.finishing()) == ("running", [])
    assert queue.record("a").get("warm_of") is None
    assert queue.holders() == ["a#2"]


def test_a_slot_left_over_hides_no_attempt_of_the_process(queue: Queue) -> None:
    ended = queue.start("a")
    ended.report("SUCCEEDED")
    assert ended.reported(1000)
    queue.line.release(T4, ended.attempt, instance=ME)
    queue.client.zadd(class_key("t4", "holders_shared"), {"a#9": 0})
    queue.start("b")
    assert queue.adopt("c")
    assert queue.holders() == ["a#9", "c#1"]
    assert queue.record("c")["warm_of"] == "b#1"


@pytest.mark.parametrize("name", ["a#1", "none", "gone#1"])
def test_a_slot_of_no_known_attempt_hinders_no_adoption(queue: Queue, name: str) -> None:
    if name == "a#1":  # its record is damaged, so its job ends, and its slot is free later
        queue.start("a")
        queue.client.hset(class_key("t4", "jobs"), "a", "{")
        queue.line.release(T4, Attempt("t4", "a", 2))
    else:
        queue.client.zadd(class_key("t4", "holders_shared"), {name: 1})
    assert queue.adopt("b")
    assert queue.record("b")["state"] == "running"


def test_the_adoption_of_a_pod_of_one_job_looks_at_no_other_pod(queue: Queue) -> None:
    costs = []
    for number, others in enumerate((1, 1, 3)):
        while len(queue.holders()) < others:
            queue.start(f"other{len(queue.holders())}", f"gpu/other{len(queue.holders())}/u")
        before = queue.calls()
        assert queue.adopt(f"pod{number}", f"gpu/pod{number}/u")
        costs.append(queue.calls() - before)
        queue.line.release(T4, Attempt("t4", f"pod{number}", 1), instance=f"gpu/pod{number}/u")
    _, one, three = costs  # the first one loads the script
    assert one == three


def test_a_pod_that_has_gone_on_frees_its_last_slot(queue: Queue) -> None:
    pod = "gpu/a/u"
    queue.start("a", pod, reuse=3)
    assert queue.adopt("b", pod, reuse=3, warm_of="a#1")
    assert queue.holders() == ["b#1"]
    assert queue.record("b").get("warm_most") is None, "each of its jobs has a process"


@pytest.mark.parametrize(
    ("name", "number", "token", "known"),
    [("a", 1, "", True), ("a", 2, "", False), ("a", 1, "x", False), ("b", 1, "", False)],
)
def test_a_pod_learns_whether_redis_knows_its_attempt(
    queue: Queue, name: str, number: int, token: str, known: bool
) -> None:
    granted = queue.start("a")
    executor = ExecutorAttempt(queue.client, Attempt("t4", name, number), token or granted.token)
    found = executor.stands(None, ME)
    assert (found and found["delivery"]) == ("a" if known else None)


@pytest.mark.parametrize("text", ["{", "5", "{}", '{"until": "soon"}'])
def test_terms_that_are_damaged_are_forgotten(queue: Queue, text: str) -> None:
    terms = class_key("t4", "terms")
    queue.client.hset(terms, "other", text)
    queue.line.announce([T4], 30)
    assert queue.client.hkeys(terms) == [""]
