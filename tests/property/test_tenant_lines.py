"""Lines of tenants that are made again, after a loss of keys, and beside an older version."""

from __future__ import annotations

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.tenant import TenantRule
from tests.property.tenants import LOSABLE, OVER, TenantQueue

pytestmark = pytest.mark.integration
WIDE = GpuClass("t4", shared_slots=4, exclusive_slots=1)


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> TenantQueue:
    """Four jobs of two tenants run."""
    queue = TenantQueue(schedule_redis, WIDE)
    for tenant in ("a", "b", "a", ""):
        queue.send(tenant)
    return queue


def order(queue: TenantQueue) -> str:
    return str(queue.client.hget(queue.key("gate"), "order"))


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("name", LOSABLE)
def test_a_lost_key_is_made_again(queue: TenantQueue, name: str, waits: bool) -> None:
    if waits:
        queue.send("b")
        queue.send("a", EXCLUSIVE)
    queue.client.delete(queue.key(name))
    queue.after(6)
    queue.turn()
    queue.check_index()
    held = {attempt.holder for attempt, _ in queue.reader.holders("t4")}
    assert set(queue.zset("tenant_charged")) == held


def test_a_slot_that_was_freed_is_charged_no_more(queue: TenantQueue) -> None:
    queue.end("a-1")
    held = {attempt.holder for attempt, _ in queue.reader.holders("t4")}
    assert set(queue.zset("tenant_charged")) == held


def test_a_slot_is_freed_whose_tenant_is_not_known(queue: TenantQueue) -> None:
    queue.client.delete(queue.key("tenant_running"))
    queue.end("a-1")
    queue.check_index()


def test_an_attempt_whose_slot_is_lost_ends_without_a_charge(queue: TenantQueue) -> None:
    attempt = Attempt.of(queue.holding.pop("a-1"))
    queue.client.zrem(queue.key("holders_shared"), attempt.holder)
    assert not queue.line.release(queue.gpu_class, attempt, OVER).freed
    queue.turn()
    queue.check_index()


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "{",
        '[1.5,0,0,0,0,0,"",""]',
        '[-4,0,0,0,0,0,"",""]',
        '[1e16,0,0,0,0,0,"",""]',
        '[70,"",0,0,0,0,"",""]',
        '[70,0,-1,0,0,0,"",""]',
        '[70,0,{},0,0,0,"",""]',
        '[70,0,0,1e999,0,0,"",""]',
        '[70,0,0,0,null,0,"",""]',
        '[70,0,0,0,0,0,0,""]',
        '[70,0,0,0,0,0,"",0]',
    ],
)
def test_a_damaged_tenant_is_made_again_at_once(queue: TenantQueue, text: str, ends: bool) -> None:
    queue.send("b")
    queue.client.hset(queue.key("tenants"), "=b", text)
    if ends:
        queue.end("a-1")
    else:
        queue.turn()
    queue.check_index()


def test_what_has_gone_is_in_no_line_that_is_made_again(queue: TenantQueue) -> None:
    queue.send("b")
    line = queue.states()["b"]["id"] * 4
    queue.client.zadd(queue.key("tenant_jobs"), {"s0000000000000000:gone": line})
    queue.client.zadd(queue.key("tenant_order"), {"s1:gone": 0})
    queue.client.zadd(queue.key("tenant_running"), {"gone#1": line, "gone#2": 4_000_000})
    queue.client.zadd(queue.key("tenant_charged"), {"away#1": 0})
    queue.turn()
    queue.after(6)
    queue.turn()
    queue.check_index()
    assert "away#1" not in queue.zset("tenant_charged")


def test_lines_stay_as_long_as_nothing_differs(queue: TenantQueue) -> None:
    queue.send("b")
    before = order(queue)
    queue.after(60)
    queue.turn()
    assert order(queue) == before
    last = queue.put_as_older("b", SHARED)
    queue.turn()
    queue.after(4)  # an older version may change the line all the time
    queue.client.zrem(queue.key("waiting_shared"), last)
    queue.client.hdel(queue.key("jobs"), last)
    queue.set("*", TenantRule())
    queue.turn()
    assert (before := order(queue)).startswith("tenants")
    queue.client.zrem(queue.key("tenant_jobs"), *queue.zset("tenant_jobs"))
    queue.turn()
    queue.check_index()


def test_a_new_tenant_leaves_the_lines_as_they_are(queue: TenantQueue) -> None:
    before = queue.client.hget(queue.key("gate"), "order")
    queue.after(1)
    queue.send("new")
    queue.turn()
    assert queue.client.hget(queue.key("gate"), "order") == before


def test_an_older_version_may_change_the_line_for_a_while(queue: TenantQueue) -> None:
    queue.send("b")
    queue.send("a")
    queue.set("*", TenantRule(weight=2))
    queue.turn()
    before = order(queue)
    queue.client.zrem(queue.key("waiting_shared"), "b-5")
    queue.after(4)
    queue.turn()
    assert order(queue) == before
    queue.after(1)
    queue.turn()
    assert order(queue) != before
    assert len(queue.zset("tenant_jobs")) == 1


def test_leftovers_of_the_whole_line_are_in_no_line_of_a_tenant(queue: TenantQueue) -> None:
    """One that runs, one that waits in the other line, and one without a record."""
    queue.send("b")
    queue.send("a", EXCLUSIVE)
    for name in ("a-1", "a-6", "none"):
        queue.client.zadd(queue.key("waiting_shared"), {name: 0})
    queue.turn()
    queue.check_index()


def test_a_job_that_waited_for_a_time_is_in_one_line(queue: TenantQueue) -> None:
    queue.send("b", eta=queue.now + 2)
    queue.check_index()
    queue.after(3)  # too soon to compare all lines
    queue.turn()
    queue.check_index()


def test_what_waits_no_more_is_dropped_as_it_comes_first(queue: TenantQueue) -> None:
    """One that runs, and one whose record is lost."""
    for tenant in "ab":
        queue.send(tenant)
    queue.client.zadd(queue.key("waiting_shared"), {"a-1": 0})
    line = queue.states()["a"]["id"] * 4
    queue.client.zadd(queue.key("tenant_jobs"), {"s0000000000000000:a-1": line})
    for name in ("jobs", "messages"):
        queue.client.hdel(queue.key(name), "b-6")
    queue.send("b")
    queue.end("b-2")
    queue.end("none-4")
    assert [name for name, _ in queue.ran[4:]] == ["b-7", "a-5"]
    queue.check_index()


def test_a_leftover_goes_also_before_the_lines_are_sorted(schedule_redis: redis.Redis) -> None:
    queue = TenantQueue(schedule_redis, WIDE)
    for _ in range(300):
        queue.put_as_older("a", SHARED)
    queue.client.zadd(queue.key("waiting_shared"), {"none": 0})
    queue.set("*", TenantRule())
    granted = queue.line.admit(queue.gpu_class)
    assert granted.more and len([*granted]) == 4


def test_a_leftover_far_back_in_the_other_line_stays_there(queue: TenantQueue) -> None:
    for _ in range(17):
        queue.send("a", EXCLUSIVE)
    queue.client.zadd(queue.key("waiting_shared"), {"a-21": 0})
    queue.turn()
    queue.check_index()


def test_a_leftover_of_the_other_isolation_goes_first(queue: TenantQueue) -> None:
    queue.send("a", EXCLUSIVE)
    queue.client.zadd(queue.key("waiting_shared"), {"a-5": 0})
    queue.set("*", TenantRule())  # makes the lines again
    queue.end("a-1")
    assert not queue.client.zcard(queue.key("waiting_shared"))
    queue.check_index()


def test_each_part_of_a_long_line_is_looked_over_again(queue: TenantQueue) -> None:
    for _ in range(20):
        queue.send("a")
    for _ in range(2):
        queue.turn()
    known = sorted(queue.zset("tenant_jobs"))
    queue.client.zrem(queue.key("tenant_jobs"), known[0], known[-1])
    for _ in range(2):
        queue.turn()
    queue.check_index()


def test_large_records_are_sorted_in_more_parts(queue: TenantQueue) -> None:
    for _ in range(60):
        queue.send("a", error="x" * 14_000)
    queue.set("*", TenantRule())
    calls = 1
    while queue.line.admit(queue.gpu_class).more:  # no slot is free
        calls += 1
    assert calls == 2
    queue.check_index()


def test_a_shared_slot_is_charged_as_its_part_of_a_gpu(queue: TenantQueue) -> None:
    queue.after(10)
    queue.turn()
    assert {name: state["total"] for name, state in queue.states().items()} == {
        "a": 5.0,
        "b": 2.5,
        "": 2.5,
    }
    for name in sorted(queue.holding):
        queue.end(name)
    queue.send("b", EXCLUSIVE)
    queue.after(10)
    queue.turn()
    assert queue.states()["b"]["total"] == 12.5
    [decayed] = [each.decayed for each in queue.tenants.of("t4").tenants if each.name == "b"]
    assert decayed == pytest.approx(12.5, rel=1e-3)


def test_a_class_without_tenants_is_not_looked_over(schedule_redis: redis.Redis) -> None:
    queue = TenantQueue(schedule_redis, WIDE)
    queue.send("", eta=queue.now + 30)
    for _ in range(6):
        assert not [name for name in LOSABLE if queue.zset_exists(name)]
        queue.send("")
    for _ in range(2):
        queue.turn()
        assert not [name for name in LOSABLE if queue.zset_exists(name)]
        assert order(queue) == "arrival"


def test_a_long_line_without_tenants_stays_as_it_is(schedule_redis: redis.Redis) -> None:
    queue = TenantQueue(schedule_redis, WIDE)
    queue.turn()
    for _ in range(300):
        queue.put_as_older("", SHARED)
    queue.send("")
    assert order(queue) == "arrival"


@pytest.mark.parametrize("name", ["x" * 64, "a b"])
def test_a_name_that_no_message_may_have_counts_as_none(queue: TenantQueue, name: str) -> None:
    queue.send(name)
    assert set(queue.states()) == {"a", "b", ""}
