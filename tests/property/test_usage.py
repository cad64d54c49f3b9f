"""What attempts have used: one entry each, sums that are their sums, and costs that add up, in any
schedule, with every call repeated.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.ends import End
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.usage import DAY, report
from gpuqueue.store import usage
from gpuqueue.store.keys import class_key, usage_key
from gpuqueue.store.line import Line
from gpuqueue.store.measures import Measures
from gpuqueue.store.usage import Usage, UsageNotKept
from tests.property.accounted import T4, Accounted

pytestmark = pytest.mark.integration
SECOND, HOUR = 10**6, 3600 * 10**6
GONE = End(EndReason.INFRA, "gone")
#: Ends without a report → whether the attempt counts.
SILENT = {
    EndReason.INFRA: False,
    EndReason.EVICTED: False,
    EndReason.NODE_LOST: False,
    EndReason.POD_DELETED: False,
    EndReason.ERROR: True,
    EndReason.HOST_OOM: True,
}


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Accounted:
    return Accounted(schedule_redis)


waits = st.sampled_from([1, 999_999, 3_600_500_001, DAY // 3, 0, DAY * 2])
submits = st.tuples(st.just("submit"), st.sampled_from(ISOLATIONS), st.sampled_from(["a", "b", ""]))
steps = st.one_of(
    submits,
    submits,
    st.tuples(st.just("succeed"), st.integers(0, 9), st.sampled_from(["SUCCEEDED", "ERROR"])),
    st.tuples(st.just("lose"), st.integers(0, 9), st.sampled_from([*SILENT])),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("again"), st.integers(0, 99)),
    st.tuples(
        st.just("note"), st.integers(1, 5), st.integers(0, 2), st.sampled_from(["0.35", "2", None])
    ),
    st.tuples(st.just("settings"), st.integers(1, 5), st.integers(0, 2)),
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
@given(
    steps=st.lists(st.tuples(steps, waits), min_size=12, max_size=30),
    repeats=st.integers(1, 3),
    known=st.booleans(),
)
def test_entries_sums_and_costs_add_up_in_any_schedule(
    schedule_redis: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[Any],
    repeats: int,
    known: bool,
) -> None:
    queue = Accounted(schedule_redis)
    queue.repeats = repeats
    monkeypatch.setattr(usage, "ABSENT", 1e9)  # a leader is there all the time
    if known:  # else an older state, in which jobs run
        queue.note(T4)
    for (kind, *what), pause in steps:
        holders = [name for _, name in queue.held_slots()]
        if kind == "submit":
            queue.submit(*what)
        elif kind == "note":
            shared, exclusive, price = what
            queue.note(GpuClass("t4", "r", shared, exclusive, price_per_hour=price))
        elif kind == "settings":  # of a dispatcher that has come; the leader has not noted them
            queue.gpu_class = GpuClass("t4", "r", *what)
        elif kind == "again" and queue.granted:  # a dispatcher that had stalled
            name = [*queue.granted][what[0] % len(queue.granted)]
            if name not in holders:
                queue.end(name, End(EndReason.INFRA, "gone"), "")
        elif holders and kind in ("succeed", "lose", "cancel"):
            name = holders[what[0] % len(holders)]
            if kind == "succeed":
                queue.succeed(name, what[1])
            elif kind == "lose":
                queue.executor(name)
                queue.end(name, End(what[1], "gone"))
            else:
                queue.line.cancel("t4", queue.granted[name]["id"], terminate=True)
                queue.end(name, End(EndReason.ERROR, "stopped"))
        queue.wait(pause)
        queue.turn()
    queue.note(queue.gpu_class)
    queue.check()


def test_an_entry_says_what_its_attempt_has_used(queue: Accounted) -> None:
    queue.note(T4)
    for _ in range(4):
        queue.submit(SHARED, "b")
    name = queue.submit(SHARED, "a", "shop.train")
    queue.wait(30 * SECOND)
    queue.succeed("j1#1")
    executor = queue.executor(f"{name}#1")
    queue.wait(90 * SECOND)
    executor.sampled({"gpu": "T4", "gpu_memory_peak": 3 * 2**30, "gpu_memory_own": 2**30})
    queue.succeed(f"{name}#1")
    [entry] = [each for each in queue.books().entries if each.delivery == name]
    start = queue.us - 90 * SECOND
    assert (entry.id, entry.attempt, entry.tenant, entry.task) == (name, 1, "a", "shop.train")
    assert (entry.domain, entry.isolation, entry.slots) == ("*", SHARED, 4)
    assert (entry.start, entry.stop, entry.waited) == (start, queue.us, 30 * SECOND)
    assert (entry.reason, entry.counted) == ("SUCCEEDED", True)
    assert (entry.memory, entry.memory_own) == (3 * 2**30, 2**30)


@pytest.mark.parametrize(("reason", "counts"), SILENT.items())
def test_an_attempt_that_a_fault_ended_is_waste(
    queue: Accounted, reason: EndReason, counts: bool
) -> None:
    queue.note(T4)
    queue.submit(EXCLUSIVE)
    queue.executor("j1#1")
    queue.wait(HOUR)
    queue.end("j1#1", End(reason, "gone"))
    queue.end("j1#1", End(reason, "gone"))
    [entry] = queue.books().entries
    assert (entry.reason, entry.counted) == (reason, counts)
    made = report(queue.books().uses(0, queue.us), (), lambda one: "")
    costs = [made.total.waste, made.total.cost]
    assert costs == [0, 350_000] if counts else costs == [350_000, 0]


def test_a_job_that_asks_to_be_delivered_again_is_no_waste(queue: Accounted) -> None:
    queue.note(T4)
    queue.submit()
    queue.wait(HOUR)
    queue.succeed("j1#1", "REQUEUED")
    assert (queue.reader.record("t4", "j1") or {}).get("state") == "delayed"
    [entry] = queue.books().entries
    assert (entry.reason, entry.counted) == ("REQUEUED", True)


def test_a_cancelled_attempt_counts(queue: Accounted) -> None:
    queue.note(T4)
    queue.submit()
    queue.wait(HOUR)
    queue.line.cancel("t4", "j1", terminate=True)
    queue.end("j1#1", GONE, "")
    [entry] = queue.books().entries
    assert (entry.reason, entry.counted, entry.stop - entry.start) == ("CANCELLED", True, HOUR)


def test_an_adopted_attempt_has_held_its_slot_since_before(queue: Accounted) -> None:
    queue.note(T4)
    record: Any = {"delivery": "x", "id": "x", "isolation": SHARED, "attempt": 3, "token": "t"}
    record |= {"instance": "h:n:1", "tenant": "a", "task": "shop.run", "gpu_class": "t4"}
    record |= {"admitted": queue.now - 50}
    for _ in range(2):
        assert queue.line.adopt("t4", record)
    queue.wait(10 * SECOND)
    queue.granted["x#3"] = record
    queue.end("x#3", GONE)
    [entry] = queue.books().entries
    assert (entry.start, entry.stop) == (queue.us - 60 * SECOND, queue.us)
    assert (entry.tenant, entry.attempt, entry.waited) == ("a", 3, 0)


def test_the_attempt_after_an_adopted_one_begins_with_its_own_slot(queue: Accounted) -> None:
    queue.note(T4)
    queue.submit()
    record: Any = dict(queue.granted["j1#1"])
    record |= {"attempt": 2, "token": "t", "instance": "h:n:2", "admitted": queue.now}
    assert queue.line.adopt("t4", record, slots=4, instead_of=queue.granted["j1#1"]["token"])
    queue.granted["j1#2"] = record
    queue.wait(10 * SECOND)
    queue.line = Line(queue.client, max_attempts=9)
    queue.end("j1#2", GONE, "h:n:2")
    queue.wait(90 * SECOND)
    queue.turn()
    queue.wait(5 * SECOND)
    queue.end("j1#3", GONE, "")
    assert [each.stop - each.start for each in queue.books().entries][-2:] == [
        10 * SECOND,
        5 * SECOND,
    ]


def test_the_attempt_before_an_adopted_one_has_an_entry(queue: Accounted) -> None:
    queue.note(T4)
    queue.submit(SHARED, "a")
    queue.wait(10 * SECOND)
    moment = queue.now
    queue.wait(5 * SECOND)
    record: Any = dict(queue.granted["j1#1"])
    record |= {"attempt": 2, "token": "t", "instance": "h:n:2", "admitted": moment}
    assert queue.line.adopt("t4", record, slots=4, instead_of=queue.granted["j1#1"]["token"])
    queue.wait(7 * SECOND)
    queue.granted["j1#2"] = record
    queue.end("j1#2", GONE, "h:n:2")
    first, second = queue.books().entries
    assert (first.attempt, first.reason, first.counted) == (1, "INFRA", False)
    assert first.stop - first.start == 10 * SECOND
    assert (second.attempt, second.start) == (2, first.stop), "one slot, one after the other"
    assert second.stop - second.start == 12 * SECOND


def test_adopted_attempts_beyond_the_slots_share_what_is_there(queue: Accounted) -> None:
    queue.note(T4)
    for number in range(6):
        record: Any = {"delivery": f"x{number}", "id": f"x{number}", "isolation": SHARED}
        assert queue.line.adopt("t4", record | {"attempt": 1, "token": "t", "gpu_class": "t4"})
    queue.noted[SHARED] = 6
    queue.wait(HOUR)
    queue.check()


def test_a_holder_whose_record_is_damaged_has_an_entry(queue: Accounted) -> None:
    queue.note(T4)
    queue.submit()
    queue.wait(HOUR)
    queue.client.hset(class_key("t4", "jobs"), "j1", "{")
    queue.end("j1#1", GONE)
    queue.end("j1#1", GONE)
    [entry] = queue.books().entries
    assert (entry.delivery, entry.attempt, entry.counted) == ("j1", 1, False)
    assert entry.stop - entry.start == HOUR


@pytest.mark.parametrize("name", ["history", "usage", "capacity"])
def test_a_key_of_a_wrong_type_keeps_no_slot_taken(queue: Accounted, name: str) -> None:
    if name == "capacity":
        queue.note(T4)
        queue.note(replace(T4, shared_slots=5))
    queue.submit()
    queue.client.delete(class_key("t4", name))
    queue.client.set(class_key("t4", name), "x")
    queue.wait(HOUR)
    queue.succeed("j1#1")
    assert queue.held_slots() == []
    queue.client.delete(class_key("t4", name))
    assert queue.books().lost == (name != "capacity")


def test_a_class_that_no_dispatcher_notes_is_not_idle(queue: Accounted) -> None:
    queue.note(T4)
    queue.wait(HOUR // 2)
    queue.submit()
    queue.wait(3 * HOUR)  # no dispatcher, but a job runs
    queue.succeed("j1#1")
    queue.check()
    for _ in range(2):  # as nothing has noted it yet, and after that
        queue.us += DAY
        queue.now = queue.us / SECOND
        queue.check()
    queue.note(T4)
    queue.wait(HOUR // 3)
    queue.check()


def test_capacity_changes_while_attempts_run(queue: Accounted) -> None:
    queue.note(T4)
    for _ in range(4):
        queue.submit()
    queue.wait(HOUR)
    queue.note(replace(T4, shared_slots=8, price_per_hour="1"))
    queue.wait(HOUR)
    queue.note(replace(T4, shared_slots=1))  # four run on it
    queue.wait(HOUR)
    queue.succeed("j1#1")
    queue.wait(DAY)
    queue.note(replace(T4, shared_slots=1))
    for number in (2, 3, 4):
        queue.wait(HOUR)
        queue.succeed(f"j{number}#1")
    queue.check()
    [first] = {use.price for use in queue.books().rows if use.slots == 8}
    assert first == 1_000_000


def test_an_attempt_over_midnight_counts_on_both_days(queue: Accounted) -> None:
    queue.note(T4)
    queue.submit(EXCLUSIVE, "a")
    queue.wait(DAY)
    queue.note(T4)  # archives the first day
    queue.succeed("j1#1")
    queue.note(T4)  # and what came late
    days = {row.day: (row.held, row.attempts) for row in queue.books().rows}
    midnight = queue.us // DAY * DAY
    assert days == {
        midnight // DAY - 1: (midnight - (queue.us - DAY), 0),
        midnight // DAY: (queue.us - midnight, 1),
    }
    fields = queue.client.hkeys(class_key("t4", "usage"))
    assert [json.loads(str(each))[0] for each in fields if str(each).startswith("[1")] == [
        midnight // DAY
    ]
    queue.check()


def test_a_short_absence_of_dispatchers_is_idle_time(queue: Accounted) -> None:
    for pause in (HOUR // 2, HOUR - 1, 5 * SECOND):
        queue.note(T4)
        queue.wait(pause)
        queue.check()
    assert len(queue.books().capacities) == 1


def test_a_day_has_a_bounded_number_of_sums(
    queue: Accounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "ROWS", 3)
    queue.note(T4)
    for number in range(20):
        queue.submit(SHARED, f"tenant-{number // 2}", f"shop.task-{number}")
        queue.wait(SECOND)
        queue.succeed(f"j{number + 1}#1")
    books = queue.books()
    assert Counter((row.tenant[:6], row.task[:5]) for row in books.rows) == {
        ("tenant", "shop."): 3,
        ("tenant", "other"): 3,
        ("other", "other"): 1,
    }
    assert sum(row.attempts for row in books.rows) == 20
    assert sum(row.held for row in books.rows) == 20 * SECOND


def test_old_entries_are_forgotten_and_days_stay(queue: Accounted) -> None:
    queue.entries = 5
    queue.note(T4)
    for number in range(1, 21):
        queue.submit(SHARED, "a")
        queue.wait(SECOND)
        queue.succeed(f"j{number}#1")
        if number == 4:  # fewer than are kept
            queue.note(T4)
            assert len(queue.books().entries) == 4
    queue.note(T4)
    books = queue.books()
    assert [each.delivery for each in books.entries] == ["j16", "j17", "j18", "j19", "j20"]
    whole = [*books.uses(0, queue.us)]
    assert sum(use.held for use in whole) == 20 * SECOND
    with pytest.raises(UsageNotKept, match=r"'t4'.*whole days"):
        [*books.uses(queue.us - 6 * SECOND, queue.us)]
    last = [*books.uses(queue.us - 5 * SECOND, queue.us)]
    assert sum(use.held for use in last) == 5 * SECOND


def test_old_days_become_one_sum(queue: Accounted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "ABSENT", 1e9)
    monkeypatch.setattr(usage, "DAYS", 3)
    for number in range(1, 9):
        queue.note(T4)
        queue.submit(SHARED, "a", f"shop.task-{number}")
        queue.wait(DAY)
        queue.succeed(f"j{number}#1")
    queue.note(T4)
    days = sorted({row.day for row in queue.books().rows if row.day})
    assert len(days) == 4 and days[-1] == queue.us // DAY
    assert not queue.client.exists(usage_key("t4", str(days[0] - 1)))
    older = [row for row in queue.books().rows if row.day is None]
    assert {(row.tenant, row.task) for row in older} == {("other", "other")}
    made = report(queue.books().uses(0, queue.us + DAY), (), lambda one: "")
    assert (made.total.attempts, made.total.held) == (8, 8 * DAY)
    assert made.total.cost + made.total.waste == queue.cost
    with pytest.raises(UsageNotKept, match="--since all"):
        [*queue.books().uses((days[0] - 1) * DAY, queue.us + DAY)]
    # An attempt that began before what is kept by day.
    assert [*queue.books().uses(days[0] * DAY, queue.us + DAY)]


def test_a_window_counts_what_is_within_it(queue: Accounted) -> None:
    queue.note(T4)
    begin = queue.us
    queue.submit(SHARED, "a")
    queue.wait(DAY)
    queue.succeed("j1#1")
    queue.submit(SHARED, "a")
    queue.wait(HOUR)
    for since, until in ((begin + 7, begin + 12), (begin + 7, queue.us), (0, begin + DAY + 5)):
        made = report(queue.books().uses(since, until), (), lambda one: "")
        assert made.total.held == min(until, queue.us) - max(since, begin)
    made = report(queue.books().uses(begin + DAY + 1, queue.us), (), lambda one: "")
    assert (made.total.attempts, made.total.running) == (0, 1)


def test_a_long_name_is_cut_between_characters(queue: Accounted) -> None:
    queue.note(T4)
    for name, kept in (("é" * 150, "é" * 100), ("x" + "é" * 150, "x" + "é" * 99)):
        holder = queue.submit(SHARED, "a", name) + "#1"
        queue.wait(1)
        queue.succeed(holder)
        assert queue.books().entries[-1].task == kept


def test_sums_are_exact_beyond_what_a_double_holds(queue: Accounted) -> None:
    queue.note(T4)
    queue.submit()
    queue.wait(3)
    row = json.dumps(
        [queue.us // DAY, "", "shop.run", SHARED, "SUCCEEDED", 1], separators=(",", ":")
    )
    huge = 2**53 * 1000 + 1
    text = json.dumps({"4 350000": ["1", str(huge), "0"]})
    queue.client.hset(class_key("t4", "usage"), row, text)
    queue.succeed("j1#1")
    [use] = Usage(queue.client).of("t4").rows
    assert (use.held, use.attempts) == (huge + 3, 2)
    assert use.used == Fraction(huge + 3, 4)


def test_metrics_have_a_bounded_number_of_tenants(queue: Accounted) -> None:
    queue.note(T4)
    for number in range(1, 206):
        queue.submit(SHARED, f"tenant-{number}")
        queue.wait(4 * SECOND)
        queue.succeed(f"j{number}#1")
    used = Measures(queue.client).of("t4").used
    assert len(used) == 201
    assert used["tenant-1", SHARED, "SUCCEEDED"] == 1.0
    assert used["other", SHARED, "SUCCEEDED"] == 5.0
    assert sum(used.values()) == float(queue.used) / SECOND
    queue.note(T4)
    assert Measures(queue.client).of("t4").used == used
