"""What no script can read is set aside, ends its own job, and keeps nothing else from its turn."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.checks.celery import damaged, without_slots
from gpuqueue.cli.view.state import gate, gpu_class
from gpuqueue.dispatcher.class_turns import IN_SCRIPT
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import EXIT_NO_APPLICATION, End, explain
from gpuqueue.model.job import Job
from gpuqueue.model.place import Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.store import places
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import BUSY, CLASSES, class_key
from gpuqueue.store.line import Line
from gpuqueue.store.measures import Measures
from gpuqueue.store.scripts import source
from gpuqueue.store.turn import Turn, Turns
from tests.property.open_class import NOW, OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1)
#: Texts in place of a record: no JSON, JSON of another kind, fields of another type.
TEXTS: list[Any] = [
    "{",
    "",
    "null",
    "[]",
    "7",
    {},
    '{"id": "a"}',
    {"id": 7},
    {"isolation": "whole"},
    {"isolation": 7},
    {"delivery": "another"},
    {"expires": "soon"},
    {"created": {}},
    {"priority": "high"},
    {"attempt": "first"},
    {"state": ["waiting"]},
    {"time_limit": True},
    {"avoid": "node-1"},
    # Fields that no JSON can hold again, or that no name of a holder can.
    {"arrival": math.inf},
    {"created": math.nan},
    {"of a newer version": -math.inf},
    {"container": {"command": [math.nan]}},
    {"attempt": -5},
    {"attempt": 1.5},
    {"attempt": 1e30},
    {"places": [{}]},
    {"avoid": {"node": 1}},
    {"avoid": {"node": "node-1"}},
    # States of which a record lacks a field, and one that is none.
    {"state": "elsewhere"},
    {"state": None},
    {"state": "launching"},
    {"state": "running", "attempt": 1},
    {"state": "reporting", "attempt": 1, "started": 1.0},
    {"state": "finishing"},
]


class Queue(OpenClass):
    """A class with an open line."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client, by="d1")
        self.turns = Turns(client, self.line)

    def key(self, name: str) -> str:
        return class_key("t4", name)

    def send(self, name: str, **fields: Any) -> Attempt | None:
        job = Job(name, "shop.train", "t4", "shared", **fields)
        packed = json.dumps({"headers": {"id": name, "task": "shop.train"}})
        granted = self.line.take_in(T4, job.record(), packed).granted
        return Attempt.of(granted[0]) if granted else None

    def damage(self, name: str, text: Any) -> None:
        if isinstance(text, dict):
            known = json.loads(self.client.hget(self.key("jobs"), name) or "{}") if text else {}
            text = json.dumps(known | text)
        self.client.hset(self.key("jobs"), name, text)

    def turn(self) -> Turn:
        [turn] = self.turns.take([T4])
        assert isinstance(turn, Turn), turn
        assert turn.problems == []
        return turn

    def ended(self, name: str) -> None:
        """Check that the job is to end as a failure that says why."""
        answer, record, message = self.line.finish_claim("t4", name, "me", 15)
        assert (answer, record is not None, message is not None) == ("ok", True, True)
        assert record is not None
        assert (record["id"], record["task"]) == (name, "shop.train")
        assert (record["reason"], record["error_type"]) == ("REJECTED", "RecordDamaged")
        assert self.line.finished("t4", name, "me", "REJECTED")


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def shown(text: Any) -> str:
    return text if isinstance(text, str) else json.dumps(text)


@pytest.mark.parametrize("text", TEXTS, ids=shown)
def test_a_damaged_record_in_line_ends_and_the_next_job_starts(queue: Queue, text: Any) -> None:
    holders = [queue.send("one"), queue.send("two")]
    for name in ("bad", "good"):
        assert queue.send(name) is None
    queue.damage("bad", text)
    assert holders[0] is not None
    [granted] = queue.line.release(T4, holders[0]).granted
    assert granted["delivery"] == "good"
    assert list(queue.reader.damaged("t4")) == ["jobs:bad"]
    queue.ended("bad")
    assert queue.turn().finishing == []


@pytest.mark.parametrize("kind", ["eta", "expires"])
@pytest.mark.parametrize("text", ["{", {"expires": "soon"}], ids=shown)
def test_a_damaged_record_that_is_due_keeps_no_other(queue: Queue, kind: str, text: Any) -> None:
    queue.send("one"), queue.send("two")
    for name in ("bad", "good"):
        times: Any = {kind: NOW + 5}
        queue.send(name, **times)
    queue.damage("bad", text)
    queue.now += 6
    turn = queue.turn()
    assert turn.moved == 2
    good = queue.reader.record("t4", "good")
    assert good is not None
    assert good["state"] == ("waiting" if kind == "eta" else "finishing")
    queue.ended("bad")


@pytest.mark.parametrize("text", TEXTS, ids=shown)
def test_a_damaged_record_of_an_attempt_frees_its_slot_at_the_end(queue: Queue, text: Any) -> None:
    attempt = queue.send("bad")
    assert attempt is not None
    queue.line.launched(attempt, "h:1", 60)
    if isinstance(text, dict) and "state" in text:
        for field in ("attempt", "admitted", "started", "outcome"):
            text = {field: None} | text
    queue.damage("bad", text)
    queue.now += 61
    assert queue.turn().moved == 1
    released = queue.line.release(T4, attempt, instance="h:1")
    assert (released.freed, released.state) == (True, "finishing")
    assert queue.reader.holders("t4") == []
    queue.ended("bad")


def test_a_record_that_vanished_ends_as_its_message_is_there(queue: Queue) -> None:
    queue.line.accept("t4", Job("bad", "shop.train", "t4", "shared").record(), "{}")
    assert queue.turn().accepted == [("bad", NOW)]
    queue.client.hdel(queue.key("jobs"), "bad")
    queue.line.enqueue(T4, "bad")
    turn = queue.turn()
    assert (turn.accepted, [name for name, _ in turn.finishing]) == ([], ["bad"])


@pytest.mark.parametrize(
    "change", [{"isolation": "exclusive"}, {"state": "accepted"}, {"state": "delayed"}], ids=shown
)
def test_a_job_that_stands_in_a_wrong_key_keeps_its_turn(
    queue: Queue, change: dict[str, Any]
) -> None:
    holders = [queue.send("one"), queue.send("two")]
    queue.send("moved")
    queue.damage("moved", change)
    started: list[str] = []
    for holder in holders:
        assert holder is not None
        queue.line.launched(holder, "h:1", 60)
        released = queue.line.release(T4, holder, End(EndReason.ERROR, "exit code 1"), "h:1", True)
        started += [record["delivery"] for record in released.granted]
    turn = queue.turn()
    for delivery, _ in turn.accepted:
        started += [record["delivery"] for record in queue.line.enqueue(T4, delivery)]
    assert [*started, *(record["delivery"] for record in turn.granted)] == ["moved"]


def test_a_record_of_an_older_version_waits_for_its_application(queue: Queue) -> None:
    line = Line(queue.client, by="d1", site=Site("h", "shop"))
    [first] = [line.take_in(T4, Job("one", "t", "t4", "shared").record(), "{}").granted[0]]
    queue.send("two"), queue.send("old")
    queue.damage("old", {"arrival": None})
    executor = ExecutorAttempt(queue.client, Attempt.of(first), first["token"])
    executor.claim("h:1", "w", 60.0)
    executor.not_loaded("ImportError")
    line.release(T4, Attempt.of(first), explain(EXIT_NO_APPLICATION), "h:1")
    why = queue.reader.why(T4, "old")
    assert why is not None
    assert why.reason == "APPLICATION_HELD"


@pytest.mark.parametrize("text", ["many", "1.5", "9223372036854775807"])
def test_jobs_keep_their_order_though_the_counter_is_damaged(queue: Queue, text: str) -> None:
    holder, _ = queue.send("one"), queue.send("two")
    queue.send("before")
    queue.client.hset(queue.key("gate"), "seq", text)
    for name in ("c", "b", "a"):
        assert queue.send(name) is None
    waiting = queue.client.zrange(queue.key("waiting_shared"), 0, -1)
    assert waiting == ["before", "c", "b", "a"]
    assert holder is not None


def test_a_record_without_its_class_runs_in_the_class_that_has_it(queue: Queue) -> None:
    holder, _ = queue.send("one"), queue.send("two")
    queue.send("bare")
    queue.damage("bare", {"gpu_class": None})
    found = queue.reader.find("bare", ["refused", "t4"])
    assert (found or {}).get("gpu_class") == "t4"
    assert holder is not None
    [granted] = queue.line.release(T4, holder).granted
    assert Attempt.of(granted) == Attempt("t4", "bare", 1)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": 7, "shared_slots": "x", "image": 7}'])
def test_a_class_with_damaged_settings_is_shown(queue: Queue, text: str) -> None:
    queue.client.hset(CLASSES, "t4", text)
    queue.client.hset(queue.key("gate"), "*:bypassed", "many")
    [(name, spec)] = queue.reader.classes().items()
    assert gpu_class(spec) == GpuClass(name) == GpuClass("t4")
    assert gate(queue.reader.view(name, spec))["bypassed"] == 0


def test_settings_of_a_class_are_shown_as_they_were_announced(queue: Queue) -> None:
    made = GpuClass("a100", memory=7, devices=(1, 2), image="i", node_selector={"a": "b"})
    queue.client.hset(CLASSES, "a100", json.dumps(made.public() | {"of tomorrow": 1}))
    assert gpu_class(queue.reader.classes()["a100"]) == made
    assert queue.reader.classes()["a100"]["of tomorrow"] == 1


@pytest.mark.parametrize("name", ["counts", "places", "damaged"])
def test_a_damaged_key_for_people_keeps_no_job_from_its_way(queue: Queue, name: str) -> None:
    queue.client.set(queue.key(name), "text")
    walk_through(queue, [name] if name == "places" else [])
    measured = Measures(queue.client).of("t4")
    assert measured.set_aside == {}
    assert (measured.counts.ended == {}) == (name == "counts")


#: Entries of places that cannot be read.
ENTRIES = [
    "{",
    "[]",
    "7",
    '"text"',
    "null",
    '{"jobs": {}, "last": "x", "failures": 1}',
    '{"jobs": 7, "last": 1, "failures": 1}',
    '{"jobs": {"a": 7}, "last": 1, "failures": 1}',
    '{"jobs": {"a": []}, "last": 1, "failures": 1}',
    '{"jobs": {"a": [7, 1]}, "last": 1, "failures": 1}',
    '{"jobs": {"a": ["a", "once"]}, "last": 1, "failures": 1}',
    '{"jobs": {}, "last": 1e999, "failures": 1}',
    '{"jobs": {}, "last": 1}',
    '{"jobs": {}, "last": 1, "failures": 1, "until": "x", "pause": 1}',
    '{"jobs": {}, "last": 1, "failures": 1, "until": 1}',
    '{"jobs": {}, "last": 1, "failures": 1, "until": 1, "pause": 1e999}',
    '{"jobs": {}, "last": 1, "failures": 1, "until": 1, "pause": 1, "probe": "good#1"}',
    '{"jobs": {}, "last": 1, "failures": 1, "until": 1, "pause": 1, "probe": 7, "delivery": "a"}',
]


@pytest.mark.parametrize("text", ENTRIES)
def test_a_damaged_entry_of_a_place_is_no_evidence(queue: Queue, text: str) -> None:
    queue.line = Line(queue.client, by="d1", devices={"t4": 1}, site=Site("h", "shop"))
    for place in ("device:h/0", "host:h", "application:shop@h", "none"):
        queue.client.hset(queue.key("places"), place, text)
    assert all(place.until is None or place.until <= NOW for place in places.of(queue.client, "t4"))
    walk_through(queue, [])
    assert Measures(queue.client).of("t4").set_aside == {}


@pytest.mark.parametrize("text", ENTRIES)
def test_a_failure_at_a_place_with_a_damaged_entry_is_its_first(queue: Queue, text: str) -> None:
    queue.line = Line(queue.client, by="d1", site=Site("h", "shop"))
    attempt = queue.send("bad")
    assert attempt is not None
    queue.client.hset(queue.key("places"), "host:h", text)
    queue.line.release(T4, attempt, explain(-9))
    [place] = places.of(queue.client, "t4")
    assert (place.failures, place.jobs, place.until) == (1, ["bad"], None)


@pytest.mark.parametrize(
    ("message", "known"),
    [
        (None, ("shop~1", "")),
        ("{", ("shop~1", "")),
        ("7", ("shop~1", "")),
        ('{"headers": 7}', ("shop~1", "")),
        ('{"headers": {"id": 7, "task": 7}}', ("shop~1", "")),
        ('{"headers": {"id": "another", "task": "train"}}', ("another", "train")),
        ('{"headers": {"id": "another", "task": "train", "n": NaN}}', ("another", "train")),
        ('{"headers": {"id": "another", "argsrepr": "\\udce9"}}', ("shop~1", "")),
    ],
)
def test_the_job_of_a_damaged_record_is_named_by_its_message(
    queue: Queue, message: str | None, known: tuple[str, str]
) -> None:
    job = Job("shop~1", "shop.train", "t4", "shared")
    delivery = job.record()["delivery"]
    queue.line.take_in(GpuClass("t4"), job.record(), "{}")
    queue.damage(delivery, "{")
    if message is None:
        queue.client.hdel(queue.key("messages"), delivery)
    else:
        queue.client.hset(queue.key("messages"), delivery, message)
    assert queue.line.cancel("t4", delivery) == "finishing"
    assert queue.client.exists(queue.key("waiting_shared")) == 0
    assert list(queue.reader.damaged("t4")) == [f"jobs:{delivery}"]
    found = queue.reader.record("t4", delivery) or {}
    assert (found["id"], found["task"], found["state"]) == (*known, "finishing")


def test_a_damaged_count_is_left_out(queue: Queue) -> None:
    walk_through(queue, [])
    for field in queue.client.hkeys(queue.key("counts")):
        if not str(field).startswith("accepted"):
            queue.client.hset(queue.key("counts"), str(field), "many")
    queue.now += 2_000_000
    assert queue.turn().moved >= 1
    walk_through(queue, [])
    counts = Measures(queue.client).of("t4").counts
    assert (counts.accepted, counts.ended) == ({"shared": 2}, {})


def walk_through(queue: Queue, problems: list[str]) -> None:
    """Check that a job goes its whole way, though steps of a turn have problems."""
    attempt = queue.send("good")
    assert attempt is not None
    queue.line.launched(attempt, "h:1", 60)
    executor = ExecutorAttempt(queue.client, attempt, attempt.token)
    executor.claim("h:1", "w", 60.0)
    executor.loaded()
    executor.report("SUCCEEDED")
    executor.reported(1e6)
    assert queue.line.release(T4, attempt, explain(0), "h:1").state == "ended"
    [turn] = queue.turns.take([T4])
    assert isinstance(turn, Turn)
    assert [step for step, _ in turn.problems] == problems


@pytest.mark.parametrize("key", ["accepted", "finishing", "waiting_shared"])
def test_a_name_without_a_job_leaves_its_key(queue: Queue, key: str) -> None:
    queue.client.zadd(queue.key(key), {"none": 1.0})
    queue.line.enqueue(T4, "none")
    queue.line.finish_claim("t4", "none", "me", 15)
    turn = queue.turn()
    assert (turn.accepted, turn.finishing, queue.client.exists(queue.key(key))) == ([], [], 0)


@pytest.mark.parametrize("name", ["none", "#", "a#", "a#x", "#1", "a#-1", "a#" + "9" * 4000])
@pytest.mark.parametrize("key", ["deadlines", "stopping", "holders_shared"])
def test_a_name_that_is_no_holder_keeps_no_other(queue: Queue, key: str, name: str) -> None:
    attempt = queue.send("good", time_limit=5.0)
    assert attempt is not None
    queue.line.launched(attempt, "h:1", 5)
    queue.client.zadd(queue.key(key), {name: 1.0})
    assert [each for each, _ in queue.reader.holders("t4")] == [attempt]
    queue.now += 6
    assert [each for each, _ in queue.turn().stopping] == [attempt]
    if key == "holders_shared":
        assert queue.line.set_aside("t4", key, name)
        assert queue.reader.damaged("t4") == {f"{key}:{name}": "1"}
    assert queue.client.zscore(queue.key(key), name) is None
    assert not queue.line.set_aside("t4", key, name)


def test_a_key_of_another_type_fails_its_step_alone(queue: Queue) -> None:
    attempt = queue.send("good")
    assert attempt is not None
    queue.line.launched(attempt, "h:1", 5)
    queue.client.set(queue.key("delayed"), "text")
    queue.now += 6
    [turn] = queue.turns.take([T4])
    assert isinstance(turn, Turn)
    assert [each for each, _ in turn.stopping] == [attempt]
    assert sorted(step for step, _ in turn.problems) == ["delayed", "due"]
    assert all("WRONGTYPE" in str(exc) for _, exc in turn.problems)


def test_the_failure_of_each_step_of_a_turn_is_noted() -> None:
    text = source("turn")
    steps = {*re.findall(r"attempt\('(\w+)'", text)}
    moves = text.partition("local MOVES = {")[2].partition("\n}\n")[0]
    steps |= {*re.findall(r"^(?:    |  { )'(\w+)',", moves, re.MULTILINE)}
    assert steps == set(IN_SCRIPT)


def test_one_class_that_fails_keeps_no_other_class_from_its_turn(queue: Queue) -> None:
    queue.client.set(queue.key("holders_shared"), "text")
    other = GpuClass("a100", shared_slots=1)
    queue.line.open("a100")
    queue.line.accept("a100", Job("j", "shop.train", "a100", "shared").record(), "{}")
    _, turn = queue.turns.take([T4, other])
    assert isinstance(turn, Turn)
    assert [name for name, _ in turn.accepted] == ["j"]


@pytest.mark.parametrize("key", BUSY)
def test_any_work_shows_in_the_look_and_in_the_turn(queue: Queue, key: str) -> None:
    assert queue.turns.with_work(["t4", "a100"]) == []
    assert not queue.turn().has_work
    queue.client.zadd(queue.key(key), {"a#1": 9e9})
    assert queue.turns.with_work(["a100", "t4"]) == ["t4"]
    # A leftover is gone after its turn.
    assert queue.turn().has_work == (key not in ("stopping", "waiting_shared", "waiting_exclusive"))


def test_a_turn_names_the_time_of_the_next_one(queue: Queue) -> None:
    assert queue.turn().due == float("inf")
    queue.client.zadd(queue.key("revoked_until"), {"a": NOW + 40})
    assert queue.turn().due == NOW + 40
    queue.client.zadd(queue.key("ended"), {"a": NOW + 30})
    assert queue.turn().due == NOW + 30
    queue.send("later", eta=NOW + 20)
    assert queue.turn().due == NOW + 20


def test_doctor_shows_what_a_turn_has_set_aside(queue: Queue) -> None:
    state: Any = SimpleNamespace(reader=queue.reader)
    queue.client.hset(CLASSES, "t4", "{}")
    queue.send("a")
    assert list(damaged(state)) == []
    queue.client.zadd(queue.key("holders_shared"), {"nothing": 1.0})
    queue.line.set_aside("t4", "holders_shared", "nothing")
    [check] = damaged(state)
    assert "in class t4" in check.saw and "nothing" in check.saw
    [where] = queue.reader.damaged("t4")
    assert where in check.saw


def test_doctor_shows_jobs_that_wait_for_slots_that_are_no_more(queue: Queue) -> None:
    state: Any = SimpleNamespace(reader=queue.reader)
    queue.client.hset(CLASSES, "t4", json.dumps(T4.public()))
    for name in ("one", "two", "waits"):
        queue.send(name)
    assert list(without_slots(state)) == []
    queue.client.hset(CLASSES, "t4", json.dumps(GpuClass("t4", exclusive_slots=1).public()))
    [check] = without_slots(state)
    assert check.saw == "1 shared jobs of t4 wait, and the class has no shared slots"
