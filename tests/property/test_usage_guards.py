"""Accounts of classes that are not noted yet, and beside damaged keys."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.model.ends import End
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.place import Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.usage import Use
from gpuqueue.store import usage
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.measures import Measures
from tests.property.accounted import T4, Accounted

pytestmark = pytest.mark.integration
SECOND = 10**6
GONE = End(EndReason.INFRA, "gone")
#: A time with more digits than JSON of Redis has: a record has it a little earlier.
MOMENT = 1_764_510_000_123_449


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Accounted:
    return Accounted(schedule_redis)


def rows(queue: Accounted) -> dict[int, Use]:
    found = {use.slots: use for use in queue.books().rows}
    assert len(found) == len(queue.books().rows)
    return found


@pytest.mark.parametrize("ahead", [60, 7200, 366 * 86_400])
def test_a_clock_that_was_ahead_changes_no_account_of_later(queue: Accounted, ahead: int) -> None:
    queue.note(T4)
    queue.wait(60 * SECOND)
    queue.note(T4)
    queue.now += ahead
    queue.note(replace(T4, price_per_hour="9"))
    queue.now -= ahead
    queue.note(T4)
    queue.submit(SHARED)
    queue.wait(3600 * SECOND)
    queue.note(T4)
    queue.note(replace(T4, price_per_hour="0.70"))
    queue.wait(3600 * SECOND)
    queue.check()
    assert queue.books().seen <= queue.us, "it is known once it has gone"


@pytest.mark.parametrize("seconds", [0, 10])
def test_an_attempt_of_a_class_that_is_not_noted_has_no_costs(
    queue: Accounted, seconds: int
) -> None:
    queue.submit(SHARED, "a")
    queue.wait(seconds * SECOND)
    queue.end("j1#1", GONE)
    books = queue.books()
    assert len(books.entries) == 1 and books.lost == 0
    [use] = rows(queue).values()
    assert (use.slots, use.attempts, use.held) == (0, 1, seconds * SECOND)
    assert Measures(queue.client).of("t4").used == {("a", SHARED, "INFRA"): 0.0}


def test_the_time_before_the_first_note_has_no_costs(queue: Accounted) -> None:
    queue.submit()
    queue.wait(10 * SECOND)
    queue.note(T4)
    queue.wait(5 * SECOND)
    queue.end("j1#1", GONE)
    assert {slots: use.held for slots, use in rows(queue).items()} == {
        0: 10 * SECOND,
        4: 5 * SECOND,
    }


def test_an_attempt_ends_with_the_terms_that_it_had(queue: Accounted) -> None:
    """Also if they change in the same microsecond."""
    queue.note(T4)
    queue.submit()
    queue.wait(10 * SECOND)
    queue.note(replace(T4, shared_slots=8))
    queue.end("j1#1", GONE)
    [use] = rows(queue).values()
    assert (use.slots, use.attempts, use.held) == (4, 1, 10 * SECOND)


def test_an_attempt_begins_as_it_got_its_slot(queue: Accounted) -> None:
    """Also after one of the same job that was adopted."""
    queue.us = MOMENT
    queue.now = MOMENT / 10**6
    queue.line = Line(queue.client, max_attempts=9)
    queue.note(T4)
    queue.submit()
    record: Any = dict(queue.granted["j1#1"]) | {"attempt": 2, "token": "t", "instance": "h:n:2"}
    assert queue.line.adopt("t4", record, slots=4, instead_of=queue.granted["j1#1"]["token"])
    queue.granted["j1#2"] = record
    queue.wait(10 * SECOND)
    queue.end("j1#2", GONE, "h:n:2")
    queue.wait(90 * SECOND)
    queue.turn()
    queue.end("j1#3", GONE, "")
    starts = [each.start for each in queue.books().entries if each.attempt != 2]
    assert starts == [MOMENT, MOMENT + 100 * SECOND]


@pytest.mark.parametrize("damage", ["{", "{}", ""])
def test_a_damaged_capacity_is_left_out(queue: Accounted, damage: str) -> None:
    queue.note(T4)
    queue.submit()
    queue.wait(10 * SECOND)
    queue.note(replace(T4, shared_slots=8))
    key = class_key("t4", "capacity")
    if damage:
        queue.client.zadd(key, {damage: queue.us - SECOND})
    else:
        queue.client.delete(key)
        queue.client.hset(class_key("t4", "usage"), "#began", queue.us - SECOND)
    queue.wait(10 * SECOND)
    queue.end("j1#1", GONE)
    assert len(queue.books().entries) == 1 and queue.books().lost == 0
    held = {0: 20 * SECOND} if not damage else {4: 10 * SECOND, 8: 10 * SECOND}
    assert {slots: use.held for slots, use in rows(queue).items()} == held


def test_an_attempt_that_held_its_slot_for_no_time_has_the_terms_of_then(
    queue: Accounted,
) -> None:
    queue.note(T4)
    queue.submit()
    record: Any = dict(queue.granted["j1#1"]) | {"attempt": 2, "token": "t", "instance": "h:n:2"}
    record |= {"admitted": queue.now}
    queue.wait(SECOND)
    queue.note(replace(T4, shared_slots=8))
    assert queue.line.adopt("t4", record, slots=8, instead_of=queue.granted["j1#1"]["token"])
    [use] = rows(queue).values()
    assert (use.slots, use.attempts, use.held) == (4, 1, 0)


def test_a_slot_of_another_attempt_has_not_waited_as_its_job(queue: Accounted) -> None:
    queue.note(T4)
    queue.submit()
    queue.wait(10 * SECOND)
    queue.client.zadd(class_key("t4", "holders_shared"), {"j1#7": queue.now})
    running = {each.attempt: (each.start, each.waited) for each in queue.books().running}
    assert running == {1: (queue.us - 10 * SECOND, 0), 7: (queue.us, 0)}


def test_an_attempt_whose_slot_is_lost_gives_way_without_an_entry(queue: Accounted) -> None:
    queue.note(T4)
    queue.submit()
    token = queue.granted["j1#1"]["token"]
    record: Any = dict(queue.granted["j1#1"]) | {"attempt": 2, "token": "t", "instance": "h:n:2"}
    queue.client.zrem(class_key("t4", "holders_shared"), "j1#1")
    assert queue.line.adopt("t4", record, slots=4, instead_of=token)
    assert queue.books().entries == []


def test_damaged_sums_begin_again(queue: Accounted) -> None:
    queue.note(T4)
    queue.submit()
    queue.wait(SECOND)
    queue.end("j1#1", GONE)
    key = class_key("t4", "usage")
    [name] = [each for each in queue.client.hkeys(key) if str(each).startswith("[1")]
    queue.client.hset(key, name, json.dumps({"4 350000": ["7"]}))
    queue.turn()
    queue.wait(3 * SECOND)
    queue.turn()
    queue.end("j1#2", GONE, "")
    assert queue.books().lost == 0
    [use] = rows(queue).values()
    assert use.attempts == 1


def test_a_row_that_a_day_has_stays_its_own(
    queue: Accounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "ROWS", 1)
    queue.note(T4)
    for number, task in enumerate(("one", "two", "one"), 1):
        queue.submit(SHARED, "a", task)
        queue.succeed(f"j{number}#1")
    assert {use.task: use.attempts for use in queue.books().rows} == {"one": 2, "other": 1}


def test_metrics_count_a_tenant_once(queue: Accounted) -> None:
    queue.note(T4)
    queue.client.hset(class_key("t4", "usage"), "#totals", 198)  # of 200
    for number, tenant in enumerate(("a", "a", "b"), 1):
        queue.submit(SHARED, tenant)
        queue.succeed(f"j{number}#1")
    assert {tenant for tenant, _, _ in Measures(queue.client).of("t4").used} == {"a", "b"}


def test_a_day_is_archived_once(queue: Accounted) -> None:
    queue.note(T4)
    archived = queue.client.hget(class_key("t4", "usage"), "#archived")
    queue.submit()
    queue.succeed("j1#1")
    queue.note(T4)
    assert queue.client.hget(class_key("t4", "usage"), "#archived") == archived


def capacities(queue: Accounted) -> list[tuple[str, float]]:
    return queue.client.zrange(class_key("t4", "capacity"), 0, -1, withscores=True)  # type: ignore[return-value]


def test_what_a_clock_that_was_ahead_has_noted_holds_from_now_on(queue: Accounted) -> None:
    queue.now += 100
    queue.note(T4)
    queue.now -= 100
    queue.note(T4)
    assert [at for _, at in capacities(queue)] == [queue.now * SECOND]


def test_shared_jobs_of_a_class_without_exclusive_slots_keep_their_shares(
    queue: Accounted,
) -> None:
    queue.note(replace(T4, exclusive_slots=0))
    for _ in range(4):
        queue.submit(SHARED)
    queue.wait(SECOND)
    queue.note(replace(T4, shared_slots=2, exclusive_slots=0))
    queue.wait(SECOND)
    queue.check()


@pytest.mark.parametrize(
    ("settings", "isolation", "jobs"),
    [
        ({"shared_slots": 9}, SHARED, 9),
        ({"exclusive_slots": 3}, EXCLUSIVE, 3),
        ({"domains": 3}, SHARED, 12),
    ],
)
def test_slots_that_no_leader_has_noted_yet_are_shares_of_what_is_there(
    queue: Accounted, settings: Any, isolation: str, jobs: int
) -> None:
    queue.note(T4)
    queue.wait(SECOND)
    queue.gpu_class = replace(T4, **settings)
    if queue.gpu_class.domains > 1:
        devices = {"t4": queue.gpu_class.domains}
        queue.line = Line(queue.client, devices=devices, site=Site("h", "shop"))
    for _ in range(jobs):
        queue.submit(isolation)
    assert len(queue.held_slots()) == jobs
    queue.wait(10 * SECOND)
    queue.succeed("j1#1")
    queue.wait(SECOND)
    queue.check()


NODES = replace(T4, exclusive_slots=2, domain="node")
SLOTS = {SHARED: 4, EXCLUSIVE: 4}


def test_exclusive_jobs_keep_their_shares_when_an_idle_node_has_left(queue: Accounted) -> None:
    queue.line.set_nodes(NODES, {"a": SLOTS, "b": SLOTS})
    queue.nodes = {"a", "b"}
    queue.note(NODES)
    for _ in range(4):
        queue.submit(EXCLUSIVE)
    queue.line.set_nodes(NODES, {"a": SLOTS})
    now = json.loads(str(queue.client.hget(class_key("t4", "usage"), "#now")))
    assert (now["domains"], now["exclusive"]) == (1, 4)


def test_nodes_that_were_listed_before_a_leader_is_back_are_noted_once(
    queue: Accounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "ABSENT", 3600.0)
    queue.nodes = set()
    queue.set_nodes("a")
    queue.note(NODES)
    queue.wait(60 * SECOND)
    queue.note(NODES)
    queue.wait(7200 * SECOND)
    queue.set_nodes("a", "b")
    before = capacities(queue)
    queue.wait(10 * SECOND)
    queue.note(NODES)
    assert len(capacities(queue)) == len(before) + 1, "that it had nothing meanwhile"
