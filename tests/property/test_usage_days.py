"""Accounts of past days: what comes late, what is damaged, and what is summed up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from gpuqueue.model.ends import End
from gpuqueue.model.names import SHARED
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.usage import DAY, report
from gpuqueue.store import usage
from gpuqueue.store.keys import class_key, usage_key
from gpuqueue.store.measures import Measures
from tests.property.accounted import T4, Accounted

pytestmark = pytest.mark.integration
SECOND, HOUR = 10**6, 3600 * 10**6
GONE = End(EndReason.INFRA, "gone")


@pytest.fixture
def queue(schedule_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Accounted:
    monkeypatch.setattr(usage, "ABSENT", 1e9)
    queue = Accounted(schedule_redis)
    queue.note(T4)
    return queue


def field(queue: Accounted, name: str) -> str | None:
    return queue.client.hget(class_key("t4", "usage"), name)  # type: ignore[return-value]


def test_a_row_that_comes_late_may_be_of_the_oldest_day(queue: Accounted) -> None:
    queue.submit(SHARED, "long")
    queue.wait(DAY)
    queue.submit(SHARED, "short")
    queue.wait(SECOND)
    queue.succeed("j2#1")
    queue.wait(DAY)
    queue.note(T4)
    queue.succeed("j1#1")
    queue.note(T4)
    queue.check()
    before = (field(queue, "#archived"), field(queue, "#oldest"))
    queue.note(T4)
    assert (field(queue, "#archived"), field(queue, "#oldest")) == before


def test_a_tenant_whose_name_is_a_number_is_no_day(queue: Accounted) -> None:
    queue.submit(SHARED, "7")
    queue.wait(4 * SECOND)
    queue.succeed("j1#1")
    queue.wait(DAY)
    queue.note(T4)
    assert Measures(queue.client).of("t4").used == {("7", SHARED, "SUCCEEDED"): 1.0}


@pytest.mark.parametrize("damage", ["{", "7", '{"4 350000": 7}', '{"4 350000": ["7"]}'])
def test_damaged_sums_of_a_past_day_count_as_none(queue: Accounted, damage: str) -> None:
    queue.submit()
    queue.wait(SECOND)
    queue.end("j1#1", GONE)
    key = class_key("t4", "usage")
    [name] = [str(each) for each in queue.client.hkeys(key) if str(each).startswith("[1")]
    queue.client.hset(key, name, damage)
    queue.wait(DAY)
    queue.note(T4)
    assert not queue.client.hexists(key, name)
    assert queue.books().rows == []


def test_a_damaged_capacity_is_in_no_sum(queue: Accounted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "CAPACITIES", 1)
    queue.client.zadd(class_key("t4", "capacity"), {"{": queue.us + 1})
    queue.wait(HOUR)
    queue.note(replace(T4, shared_slots=8))
    assert queue.client.zcard(class_key("t4", "capacity")) == 1
    made = report((), queue.books().had(0, queue.us), lambda one: "")
    assert made.total.capacity == 1, "until the damaged one"


def test_a_damaged_note_of_a_class_that_was_away_is_replaced(
    queue: Accounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "ABSENT", 60.0)
    queue.client.hset(class_key("t4", "usage"), "#now", "{")
    queue.wait(HOUR)
    queue.note(T4)
    assert queue.books().capacities[-1].slots == {SHARED: 4, "exclusive": 1}


def test_what_a_class_had_on_old_days_is_one_sum(
    queue: Accounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "CAPACITIES", 1)
    monkeypatch.setattr(usage, "DAYS", 2)
    first = queue.us // DAY
    for shared in (8, 4, 8, 4, 8, 4):
        queue.wait(DAY)
        queue.note(replace(T4, shared_slots=shared))
        queue.client.hset(usage_key("t4", str(first)), "x", '{"350000": ["0", "5", "0"]}')
    assert not queue.client.exists(usage_key("t4", str(first + 1)))
    made = report((), queue.books().had(0, queue.us), lambda one: "")
    assert made.total.capacity == 6 * DAY
