"""What attempts have used in a class whose domains are nodes: costs add up as nodes come and go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuqueue.model.ends import End
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.usage import DAY, report
from gpuqueue.store import usage
from gpuqueue.store.keys import class_key
from gpuqueue.store.usage import UsageNotKept
from tests.property.accounted import T4, Accounted

pytestmark = pytest.mark.integration
NODES = replace(T4, domain="node")
HOUR = 3600 * 10**6
GONE = End(EndReason.INFRA, "gone")
waits = st.sampled_from([1, 999_999, 3_600_500_001, DAY // 3, 0, DAY * 2])
steps = st.one_of(
    st.tuples(st.just("submit"), st.sampled_from(ISOLATIONS)),
    st.tuples(st.just("end"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("nodes"), st.sets(st.sampled_from("abc"))),
    st.tuples(st.just("settings"), st.sampled_from([1, 2, 6]), st.sampled_from(["0.35", "1.7"])),
    st.tuples(st.just("note")),
)


@pytest.fixture
def queue(schedule_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Accounted:
    monkeypatch.setattr(usage, "ABSENT", 1e9)  # a leader is there all the time
    queue = Accounted(schedule_redis)
    queue.nodes = set()
    queue.note(NODES)
    return queue


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12, deadline=None
)
@given(
    steps=st.lists(st.tuples(steps, waits), min_size=12, max_size=30),
    repeats=st.integers(1, 2),
    kept=st.sampled_from([2, 500]),
)
def test_costs_add_up_as_nodes_come_and_go(
    schedule_redis: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[Any],
    repeats: int,
    kept: int,
) -> None:
    """With ``kept`` changes of their number; those before are sums."""
    monkeypatch.setattr(usage, "ABSENT", 1e9)
    monkeypatch.setattr(usage, "CAPACITIES", kept)
    queue = Accounted(schedule_redis)
    queue.repeats, queue.nodes = repeats, set()
    queue.note(NODES)
    for (kind, *what), pause in steps:
        holders = sorted(name for _, name in queue.held_slots())
        if kind == "submit":
            queue.submit(*what)
        elif kind == "nodes":
            queue.set_nodes(*sorted(what[0]), shared=queue.gpu_class.shared_slots)
        elif kind == "settings" and kept > 2:  # of sums, the terms are those that followed
            queue.note(replace(NODES, shared_slots=what[0], price_per_hour=what[1]))
            queue.set_nodes(*sorted(queue.nodes or ()), shared=what[0])
        elif kind == "note":
            queue.note(queue.gpu_class)
        elif holders:
            name = holders[what[0] % len(holders)]
            if what[1]:
                queue.succeed(name)
            else:
                queue.executor(name)
                queue.end(name, GONE)
        queue.wait(pause)
        queue.turn()
    queue.note(queue.gpu_class)
    queue.check()


def test_jobs_beyond_the_slots_of_the_nodes_that_stay_are_shares_of_them(
    queue: Accounted,
) -> None:
    queue.set_nodes("a", "b", "c")
    for _ in range(4):
        queue.submit(SHARED)  # all on one node
    queue.note(replace(NODES, shared_slots=1))
    queue.wait(HOUR)
    queue.set_nodes("a", shared=1)
    assert queue.books().capacities[-1].slots[SHARED] == 4
    queue.wait(HOUR)
    queue.check()


def test_a_node_counts_until_its_last_job_has_ended(queue: Accounted) -> None:
    queue.set_nodes("a", "b")
    queue.submit(EXCLUSIVE)
    queue.wait(HOUR)
    queue.set_nodes("b")
    queue.wait(HOUR)
    queue.succeed("j1#1")
    queue.wait(HOUR)
    queue.set_nodes()
    queue.wait(HOUR)
    queue.check()
    made = report((), queue.books().had(0, queue.us), lambda one: "")
    assert made.total.capacity == 5 * HOUR


def test_changes_of_nodes_that_are_not_kept_are_sums_of_days(
    queue: Accounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "CAPACITIES", 3)
    queue.set_nodes("a")
    queue.submit(SHARED)  # until the end, on a node that goes
    days = []
    for number in range(8):
        days.append(queue.us // DAY)
        queue.set_nodes(*"ab"[: 1 + number % 2])
        queue.wait(DAY // 2 + number)
    queue.note(NODES)
    assert queue.client.zcard(class_key("t4", "capacity")) == 3
    queue.check()
    by_day = report((), queue.books().had(0, queue.us), lambda one: str(one.day)).lines
    assert by_day[str(days[2])].capacity > DAY
    with pytest.raises(UsageNotKept, match="whole days"):
        [*queue.books().uses(queue.us - 3 * DAY - 1, queue.us)]
    whole = report((), queue.books().had(days[2] * DAY, queue.us), lambda one: str(one.day)).lines
    assert {day: by_day[day].capacity for day in whole} == {
        day: sums.capacity for day, sums in whole.items()
    }
    assert min(map(int, whole)) == days[2]


def test_other_slots_of_a_node_change_no_capacity(queue: Accounted) -> None:
    for shared in (4, 2):
        queue.set_nodes("a", shared=shared)
        queue.wait(HOUR)
    assert [each.domains for each in queue.books().capacities] == [1]


def test_nodes_of_an_older_state_count_with_the_next_look_at_them(queue: Accounted) -> None:
    queue.set_nodes("a", "b")
    queue.client.delete(class_key("t4", "domains") + ":there")
    queue.note(NODES)
    queue.set_nodes("a", "b")
    begin = queue.us
    queue.wait(HOUR)
    made = report((), queue.books().had(begin, queue.us), lambda one: "")
    assert made.total.capacity == 2 * HOUR


def test_a_class_that_is_no_longer_by_node_is_one_domain(queue: Accounted) -> None:
    queue.set_nodes("a", "b", "c")
    queue.line.set_nodes(queue.gpu_class, None)
    begin = queue.us
    queue.wait(HOUR)
    made = report((), queue.books().had(begin, queue.us), lambda one: "")
    assert made.total.capacity == HOUR


@pytest.mark.parametrize("lists_first", [True, False])
def test_nodes_of_a_class_that_was_away_count_from_its_return(
    queue: Accounted, monkeypatch: pytest.MonkeyPatch, lists_first: bool
) -> None:
    monkeypatch.setattr(usage, "ABSENT", 3600.0)
    queue.set_nodes("a")
    queue.wait(HOUR)
    queue.note(NODES)  # the last sign of it, after which it is away
    queue.wait(5 * HOUR)
    if lists_first:
        queue.set_nodes("a", "b")
    queue.note(NODES)
    queue.set_nodes("a", "b")
    queue.wait(HOUR // 2)
    made = report((), queue.books().had(0, queue.us), lambda one: "")
    assert made.total.capacity == 2 * HOUR


def test_an_adopted_attempt_without_a_known_node_adds_none(queue: Accounted) -> None:
    record: Any = {"delivery": "x", "id": "x", "isolation": SHARED, "attempt": 1, "token": "t"}
    assert queue.line.adopt("t4", record | {"gpu_class": "t4", "instance": "h:n:1"})
    queue.turn()
    assert [each.domains for each in queue.books().capacities] == [0]
    queue.set_nodes("a")
    assert [each.domains for each in queue.books().capacities] == [1]
    queue.set_nodes("a", "b")
    queue.set_nodes("a", "b", shared=2)
    assert queue.books().capacities[-1].domains == 2
    record |= {"delivery": "y", "id": "y", "gpu_class": "t4", "instance": "h:n:2"}
    assert queue.line.adopt("t4", record)
    assert queue.books().capacities[-1].slots == {SHARED: 4, EXCLUSIVE: 1}


def test_a_damaged_capacity_keeps_no_slot_of_a_node_taken(queue: Accounted) -> None:
    queue.set_nodes("a")
    queue.submit(SHARED)
    queue.set_nodes()
    queue.client.set(class_key("t4", "capacity"), "x")
    queue.succeed("j1#1")
    assert queue.held_slots() == []
