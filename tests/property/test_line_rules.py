"""Single rules of the line of a class, each where it alone decides."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.client import connect
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.scripts import Scripts
from gpuqueue.store.turn import Turn, Turns
from tests.property.open_class import NOW, OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1, exclusive_patience=2)


class Queue(OpenClass):
    """A class with an open line."""

    def send(self, name: str, isolation: str = "shared", **fields: Any) -> list[str]:
        """Accept a job; return the jobs that start."""
        record: Any = {"delivery": name, "id": name, "isolation": isolation, "gpu_class": "t4"}
        granted = self.line.take_in(T4, record | fields, "{}").granted
        return [each["delivery"] for each in granted]

    def ends(self, name: str) -> list[str]:
        """Release the attempt of a job; return the jobs that start."""
        end = End(EndReason.ERROR, "gone")
        granted = self.line.release(T4, Attempt("t4", name, 1), end, "").granted
        return [each["delivery"] for each in granted]

    def turn(self) -> Turn:
        [turn] = Turns(self.client, self.line).take([T4])
        assert isinstance(turn, Turn) and not turn.problems, turn
        return turn


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def test_a_second_exclusive_job_does_not_lengthen_the_wait_of_the_first(queue: Queue) -> None:
    assert queue.send("s1") == ["s1"]
    assert queue.send("e1", "exclusive") == []
    assert queue.send("s2") == ["s2"]
    assert queue.send("s3") == queue.send("s4") == []
    assert queue.send("e2", "exclusive") == []
    assert queue.ends("s1") == ["s3"]
    assert queue.ends("s2") == [], "two shared jobs have overtaken the first exclusive job"
    assert queue.ends("s3") == ["e1"]


def test_a_stored_job_is_shown_until_it_is_in_line_or_cancelled(queue: Queue) -> None:
    for name in ("a", "b"):
        record: Any = {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}
        assert queue.line.accept("t4", record, "{}") == "accepted"
    assert [name for name, _ in queue.turn().accepted] == ["a", "b"]
    queue.line.enqueue(T4, "a")
    assert queue.line.cancel("t4", "b") == "cancelled"
    turn = queue.turn()
    assert (turn.accepted, [name for name, _ in turn.finishing]) == ([], ["b"])


@pytest.mark.parametrize("first", ["eta", "expires"])
def test_a_turn_is_due_when_the_first_of_all_jobs_is(queue: Queue, first: str) -> None:
    queue.send("s1")
    queue.send("s2")
    queue.send("waits", expires=NOW + (500 if first == "eta" else 100))
    queue.send("later", eta=NOW + (100 if first == "eta" else 500))
    assert queue.turn().due == NOW + 100


def test_a_cancelled_job_is_due_no_more(queue: Queue) -> None:
    queue.send("later", eta=NOW + 100, expires=NOW + 200)
    assert queue.turn().due == NOW + 100
    queue.line.cancel("t4", "later")
    assert queue.turn().due > NOW + 200, "only the mark of its revoke ends then"


#: State → how a job gets there.
STATES: dict[str, dict[str, Any]] = {
    "accepted": {},
    "delayed": {"eta": NOW + 100},
    "finishing": {"reason": "REJECTED"},
}


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("state", STATES)
def test_a_name_left_in_line_changes_no_job_that_does_not_wait(
    queue: Queue, state: str, lost: bool
) -> None:
    record: Any = {"delivery": "a", "id": "a", "isolation": "shared", "gpu_class": "t4"}
    if state == "delayed":
        queue.send("a", **STATES[state])
    else:
        queue.line.accept("t4", record | STATES[state], "{}")
    key = class_key("t4", state)
    known = queue.client.zscore(key, "a")
    queue.now += 10
    if lost:
        queue.client.zrem(key, "a")
    queue.client.zadd(class_key("t4", "waiting_shared"), {"a": 1})
    assert list(queue.line.admit(T4)) == []
    assert queue.client.zscore(key, "a") == (queue.now if lost else known)
    assert not queue.client.exists(class_key("t4", "waiting_shared"))


@pytest.mark.parametrize("lost", [False, True])
def test_a_name_left_in_another_line_changes_no_place(queue: Queue, lost: bool) -> None:
    shared, exclusive = (class_key("t4", f"waiting_{each}") for each in ("shared", "exclusive"))
    for name in ("s1", "s2", "a", "b", "c", "d", "e"):
        queue.send(name)
    place = queue.client.zscore(shared, "e")
    if lost:
        queue.client.zrem(shared, "e")
    queue.client.zadd(exclusive, {"e": 1})
    assert queue.ends("s1") + queue.ends("s2") == ["a", "b"]
    # It is the turn of the exclusive line now.
    assert queue.ends("a") + queue.ends("b") == ["c", "d"]
    assert not queue.client.exists(exclusive)
    assert queue.client.zscore(shared, "e") == place


def test_a_class_that_names_no_server_starts_jobs(queue: Queue) -> None:
    """Versions that did not write where they had opened a class."""
    queue.client.hdel(class_key("t4", "gate"), "opened_on")
    assert queue.send("a") == ["a"]


def test_a_dispatcher_that_may_not_ask_for_the_server_starts_jobs(queue: Queue) -> None:
    rights = ["+@all", "-info"]
    queue.client.acl_setuser("plain", enabled=True, passwords=["+plain"], keys=["*"],
                             channels=["*"], commands=rights)  # fmt: skip
    kwargs = queue.client.connection_pool.connection_kwargs
    with connect(f"redis://plain:plain@{kwargs['host']}:{kwargs['port']}/0") as client:
        queue.line = Line(client)
        assert queue.send("a") == ["a"]
    queue.client.acl_deluser("plain")


@pytest.mark.parametrize("key", ["expiring", "delayed", "deadlines", "ended", "finishing"])
def test_a_name_that_is_due_without_a_record_stops_nothing(queue: Queue, key: str) -> None:
    name = "lost#1" if key == "deadlines" else "lost"
    queue.client.zadd(class_key("t4", key), {name: NOW - 1})
    queue.turn()
    if key == "finishing":  # its finisher finds that there is none
        assert queue.line.finish_claim("t4", name, "me", 15)[0] == "not finishing"
    assert not queue.client.exists(class_key("t4", key))


def test_a_deadline_of_a_job_that_never_started_stops_nothing(queue: Queue) -> None:
    record: Any = {"delivery": "a", "id": "a", "isolation": "shared", "gpu_class": "t4"}
    queue.line.accept("t4", record | {"reason": "REJECTED"}, "{}")
    assert queue.line.finish_claim("t4", "a", "me", 15)[0] == "ok"
    assert queue.line.finished("t4", "a", "me", "REJECTED")
    queue.client.zadd(class_key("t4", "deadlines"), {"a#1": NOW - 1})
    assert queue.turn().stopping == []
    assert not queue.client.exists(class_key("t4", "deadlines"))


def test_a_name_without_a_record_is_measured_as_nothing(queue: Queue) -> None:
    queue.client.zadd(class_key("t4", "waiting_shared"), {"lost": 1})
    measured = Scripts(queue.client).call("measured", "t4")
    assert (measured[0], float(measured[2])) == (1, 0.0)
