"""Tenants by example: fair shares over a long run, limits and guarantees, where rules come from,
and the state of the version before.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.tenant import ClassRules, TenantRule
from gpuqueue.store.tenants import RulesOfFile
from tests.property.record_before_tenants import T4 as BEFORE
from tests.property.tenants import LOSABLE, TenantQueue, jain
from tests.upgrade.state import load

pytestmark = pytest.mark.integration
WIDE = GpuClass("t4", shared_slots=4)


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> TenantQueue:
    return TenantQueue(schedule_redis, WIDE)


def test_without_a_half_life_running_jobs_count_only(queue: TenantQueue) -> None:
    queue.tenants.set("t4", {}, 0)
    for tenant in ("a", "a", "a", "a", "a", "b", "c", "c"):
        queue.send(tenant)
    queue.after(100)
    assert [tenant for _, tenant in queue.ran] == ["a"] * 4
    for _ in range(4):
        queue.end(queue.ran[0][0] if queue.ran[0][0] in queue.holding else min(queue.holding))
    # With as many running, the one that was served less recently.
    assert [tenant for _, tenant in queue.ran[4:]] == ["b", "c", "a", "c"]


# -- limits and guarantees -------------------------------------------------------------------------


def test_a_guaranteed_share_comes_back_as_jobs_end(queue: TenantQueue) -> None:
    """Before a better priority, and before those that have used less."""
    queue.set("b", TenantRule(guaranteed=2))
    for _ in range(8):
        queue.send("a")
    assert queue.running() == {"a": 4}  # what is idle is lent
    queue.after(10)
    queue.send("b", priority=5)
    queue.send("b", priority=5)
    queue.send("b", priority=5)
    for running in ({"a": 3, "b": 1}, {"a": 2, "b": 2}, {"a": 2, "b": 2}):
        queue.end(next(name for name, r in queue.holding.items() if r["tenant"] == "a"))
        assert queue.running() == running
    queue.check_index()


def test_a_tenant_at_its_limit_waits_and_says_so(queue: TenantQueue) -> None:
    queue.set("a", TenantRule(max_running=1))
    for tenant in ("a", "a", "b", ""):
        queue.send(tenant)
    assert [tenant for _, tenant in queue.ran] == ["a", "b", ""]
    why = queue.reader.why(queue.gpu_class, "a-2")
    assert why and why.reason == "TENANT_LIMIT"
    assert [each.limited for each in queue.tenants.of("t4").tenants if each.name == "a"] == [True]
    queue.end("a-1")
    assert queue.running() == {"a": 1, "b": 1, "": 1}
    queue.set("a", TenantRule(max_running=3))
    assert [each.limited for each in queue.tenants.of("t4").tenants if each.name == "a"] == [False]
    queue.set("a", TenantRule(max_running=0))
    queue.end("a-2")
    queue.send("a")
    assert "a" not in queue.running()
    queue.set("a", None)  # while others run
    queue.turn()
    assert queue.running()["a"] == 1


def test_a_limit_does_not_reset_the_count_of_bypasses(schedule_redis: redis.Redis) -> None:
    """Else shared jobs of the same tenant could starve its exclusive job."""
    queue = TenantQueue(schedule_redis, GpuClass("t4", shared_slots=3, exclusive_slots=1))
    queue.set("b", TenantRule(max_running=1))
    for tenant, isolation in (("a", SHARED), ("a", SHARED), ("b", EXCLUSIVE), ("b", SHARED)):
        queue.send(tenant, isolation)
    assert queue.running() == {"a": 2, "b": 1}
    assert queue.client.hget(queue.key("gate"), "*:bypassed") == "1"
    queue.end("a-1")
    queue.send("a")
    assert queue.running() == {"a": 2, "b": 1}
    assert queue.client.hget(queue.key("gate"), "*:bypassed") == "1"


def test_what_was_used_decides_also_as_lines_are_made_again(queue: TenantQueue) -> None:
    queue.set("*", TenantRule(max_running=1))
    queue.send("b")
    queue.after(5)
    for tenant in ("a", "a", "b"):
        queue.send(tenant)
    queue.set("*", None)  # all lines
    queue.after(40)
    queue.set("b", TenantRule(weight=10))
    assert queue.running() == {"a": 1, "b": 1}
    queue.turn()
    assert [tenant for _, tenant in queue.ran] == ["b", "a", "b", "a"]


def test_a_rule_for_jobs_without_a_tenant_is_the_first_of_its_class(queue: TenantQueue) -> None:
    queue.set("", TenantRule(max_running=1))
    queue.send("")
    queue.send("")
    assert queue.running() == {"": 1}


def test_tenants_with_jobs_are_listed_first(queue: TenantQueue) -> None:
    for tenant in ("a", "b"):
        queue.send(tenant)
    queue.end("b-2")  # it was served last
    assert [each.name for each in queue.tenants.of("t4").tenants] == ["a", "b"]


def test_of_many_tenants_those_with_jobs_are_listed_first(queue: TenantQueue) -> None:
    """Those that run, then those that wait or are delayed; a list costs as much as it has."""
    queue.set("*", TenantRule(max_running=1))
    for tenant in ("gone", "latest"):
        queue.send(tenant)
        queue.after(60)
        queue.end(f"{tenant}-{queue.sent}")
    queue.set("never", TenantRule(max_running=0))
    queue.send("late", eta=queue.now + 900)
    for tenant in ("never", "a", "b", "c", "c", "d", "d"):
        queue.send(tenant)
    queue.turn()
    busy = {"a", "b", "c", "d", "late", "never"}
    order = ["d", "c", "b", "a"]  # as they were served

    def listed(most: int) -> list[str]:
        view = queue.tenants.of("t4", most)
        assert view.total == 8 and view.rules
        return [each.name for each in view.tenants]

    assert listed(4) == order
    assert (listed(6)[:4], {*listed(6)}) == (order, busy)
    assert listed(7)[-1] == "latest" and listed(8)[-1] == "gone"
    assert listed(0) == []
    for number in range(200):
        queue.send(f"more-{number}")
    queue.client.config_resetstat()
    assert len(queue.tenants.of("t4", 5).tenants) == 5
    calls = queue.client.info("commandstats")
    assert sum(int(each["calls"]) for each in calls.values()) < 100
    assert "cmdstat_hgetall" not in calls or calls["cmdstat_hgetall"]["calls"] == 1


@pytest.mark.parametrize("lost", ["=a", "#1"])
def test_a_tenant_that_cannot_be_read_is_not_listed(queue: TenantQueue, lost: str) -> None:
    for tenant in ("a", "b", "c"):
        queue.send(tenant)
    assert queue.client.hget(queue.key("tenants"), "#1") == "a"
    queue.client.hdel(queue.key("tenants"), lost)
    assert {each.name for each in queue.tenants.of("t4", 2).tenants} == {"b", "c"}


def test_a_rule_makes_no_tenant(queue: TenantQueue) -> None:
    queue.send("a")
    queue.set("b", TenantRule(weight=2))
    assert set(queue.states()) == {"a"}


def test_jobs_of_one_tenant_start_by_arrival_in_either_line(queue: TenantQueue) -> None:
    queue.gpu_class = GpuClass("t4", shared_slots=4, exclusive_slots=1)
    queue.set("a", TenantRule(max_running=0))
    queue.send("a", SHARED)
    queue.send("a", EXCLUSIVE)
    queue.set("a", None)
    queue.turn()
    assert queue.ran == [("a-1", "a")]


@pytest.mark.parametrize(("first", "second"), [(SHARED, EXCLUSIVE), (EXCLUSIVE, SHARED)])
def test_the_line_of_the_tenant_with_less_use_starts(
    queue: TenantQueue, first: str, second: str
) -> None:
    queue.gpu_class = GpuClass("t4", shared_slots=4, exclusive_slots=1)
    queue.send("a")
    queue.after(10)
    queue.end("a-1")
    for tenant in "ab":
        queue.set(tenant, TenantRule(max_running=0))
    queue.send("a", first)
    queue.send("b", second)
    queue.set("*", None)
    for tenant in "ab":
        queue.set(tenant, None)
    queue.turn()
    assert [tenant for _, tenant in queue.ran] == ["a", "b"]


def test_both_lines_start_by_arrival_until_they_are_sorted(queue: TenantQueue) -> None:
    queue.gpu_class = GpuClass("t4", shared_slots=1, exclusive_slots=1)
    for _ in range(300):
        queue.put_as_older("a", SHARED)
    queue.put_as_older("a", EXCLUSIVE)
    queue.set("*", TenantRule(weight=2))
    granted = queue.line.admit(queue.gpu_class)
    assert granted.more and [each["delivery"] for each in granted] == ["older-1"]


def test_a_full_line_refuses_with_the_limit_and_retries_go_on(queue: TenantQueue) -> None:
    queue.set("a", TenantRule(max_running=1, max_queued=1))
    assert [queue.send("a") for _ in range(3)] == ["accepted", "accepted", "refused"]
    record = queue.reader.record("t4", "a-3")
    assert record and (record["state"], record["reason"]) == ("finishing", "REJECTED")
    assert record["error_type"] == "TenantLimit"
    assert "gpu.tenant='a'" in record["error"] and "max_queued=1" in record["error"]
    assert queue.send("a", name="a-1~1", id="a-1", retries=1) == "accepted"
    assert queue.send("a", name="a-2~0.1", id="a-2", nesting=1) == "accepted"
    assert queue.send("b") == "accepted"


def test_a_file_leaves_what_a_command_has_set(queue: TenantQueue) -> None:
    tenants = queue.tenants
    first = {"t4": ClassRules({"a": TenantRule(weight=2), "b": TenantRule(weight=3)}, 60.0)}
    assert tenants.follow(first, "1") == []
    assert tenants.set("t4", {"a": TenantRule(weight=9)})
    assert not tenants.set("t4", {"a": TenantRule(weight=9)})
    second = {"t4": ClassRules({"a": TenantRule(weight=2), "c": TenantRule(weight=4)})}
    assert tenants.follow(second, "2") == []
    view = tenants.of("t4")
    assert {name: rule.weight for name, rule in view.rules.items()} == {"a": 9, "c": 4}
    assert view.sources == {"a": "command", "c": "file"}
    assert (view.half_life, view.epoch) == (86_400, 3)
    assert tenants.follow(second, "2") == [] and tenants.of("t4").epoch == 3
    tenants.set("t4", {"a": None})
    tenants.follow(second, "2")  # the file may set it again
    assert {name: rule.weight for name, rule in tenants.of("t4").rules.items()} == {"a": 2, "c": 4}


def test_the_leader_follows_its_file_and_an_empty_one_ends_it(queue: TenantQueue) -> None:
    rules = {"t4": ClassRules({"a": TenantRule(max_running=1)})}
    own = RulesOfFile(queue.client, rules, "[t4.tenants.a]", ["t4"])
    none = RulesOfFile(queue.client, {}, "", ["t4"])
    none.follow()
    assert not queue.zset_exists("tenant_rules")
    for _ in range(2):
        own.follow()
        assert queue.tenants.of("t4").epoch == 1
    assert queue.tenants.of("t4").rules == {"a": TenantRule(max_running=1)}
    none.follow()
    assert queue.tenants.of("t4").rules == {}
    own.follow()  # the same file comes back
    assert queue.tenants.of("t4").rules == {"a": TenantRule(max_running=1)}


# -- one tenant, many jobs, idle tenants -----------------------------------------------------------


def test_a_class_without_tenants_has_no_keys_of_theirs(queue: TenantQueue) -> None:
    for _ in range(6):
        queue.send("")
    queue.turn()
    queue.end(min(queue.holding))
    own = [name for name in (*LOSABLE, "tenant_rules", "tenant_idle") if queue.zset_exists(name)]
    assert own == []
    assert queue.client.hget(queue.key("gate"), "order") == "arrival"


def test_long_lines_are_sorted_in_parts(queue: TenantQueue) -> None:
    """The first tenant of a class with a long line: no script reads it all."""
    for _ in range(700):
        queue.put_as_older("", SHARED)
    queue.set("*", TenantRule(max_running=2))
    calls = 0
    while (granted := queue.line.admit(queue.gpu_class)).more:
        queue.took(granted)
        assert queue.running() == {"": 2}, "meanwhile, jobs start in the order of the whole line"
        calls += 1
    queue.took(granted)
    assert calls == 2
    queue.check_index()
    assert queue.running() == {"": 2}


def test_idle_tenants_are_forgotten(queue: TenantQueue) -> None:
    queue.tenants.set("t4", {}, 60)
    queue.half_life = 60.0
    queue.send("a")
    queue.after(10)
    queue.end("a-1")
    assert set(queue.states()) == {"a"}
    queue.after(60 * 21)
    queue.turn()
    assert queue.states() == {} and not queue.zset("tenant_idle")
    assert queue.send("a") == "accepted"
    queue.check_index()


# -- the state of the version before ---------------------------------------------------------------


def test_the_state_of_the_version_before_is_taken_over(schedule_redis: redis.Redis) -> None:
    """``before-tenants.json`` was recorded by record_before_tenants.py with its scripts."""
    queue = TenantQueue(schedule_redis, BEFORE)
    schedule_redis.delete(*schedule_redis.scan_iter("gpuqueue:*"))
    kept = json.loads((Path(__file__).parent / "before-tenants.json").read_text())
    load(schedule_redis, kept)
    queue.now = time.time()
    queue.holding = {
        record["delivery"]: record for record in queue.records() if record["state"] == "launching"
    }
    assert sorted(queue.holding) == ["a0", "a1"]
    queue.line.open("t4")
    queue.turn()
    queue.check_index()
    assert set(queue.states()) == {"a", "b", "c", ""}
    for _ in range(11):
        queue.after(10)
        queue.end(min(queue.holding))
        queue.check_index()
    # What was waiting gets its turn by tenants; all jobs of "a" would have gone first.
    assert [name for name, _ in queue.ran][:4] == ["b0", "none", "b1", "a2"]
    assert {name for name, _ in queue.ran} == {*(f"a{n}" for n in range(2, 8)), "b0", "b1"} | {
        "none",
        "alone",
    }
    record = queue.reader.record("t4", "later")
    assert record and record["state"] == "delayed"


# -- fair shares over a long run -------------------------------------------------------------------


def saturate(queue: TenantQueue, lengths: dict[str, float], ends: int) -> dict[str, float]:
    """Let each tenant always have jobs in line, each of ``lengths`` seconds, until so many have
    ended. Returns the GPU-seconds of each.
    """
    for tenant in lengths:
        for _ in range(4):
            queue.send(tenant)
    until = {name: queue.now + lengths[tenant] for name, tenant in queue.ran}
    for _ in range(ends):
        name = min(queue.holding, key=lambda each: (until[each], each))
        tenant = queue.holding[name]["tenant"]
        queue.send(tenant)
        queue.after(max(0.0, until[name] - queue.now))
        before = len(queue.ran)
        queue.end(name)
        for started, owner in queue.ran[before:]:
            until[started] = queue.now + lengths[owner]
    return {tenant: queue.used[tenant].total for tenant in lengths}


@pytest.mark.parametrize("half_life", [86_400.0, 600.0])
def test_equal_tenants_get_equal_shares_with_short_and_long_jobs(
    queue: TenantQueue, half_life: float
) -> None:
    """One sends short jobs, one long ones: by jobs, the long ones would get ten times the GPU."""
    queue.half_life = half_life
    queue.tenants.set("t4", {}, half_life)
    used = saturate(queue, {"a": 6.0, "b": 20.0, "c": 60.0, "d": 11.0}, 500)
    assert jain(list(used.values())) >= 0.99, used
    states = queue.states()
    for tenant, seconds in used.items():
        assert states[tenant]["total"] == pytest.approx(seconds, abs=60 * queue.part(SHARED))


def test_shares_follow_the_weights(queue: TenantQueue) -> None:
    queue.set("a", TenantRule(weight=3))
    used = saturate(queue, {"a": 10.0, "b": 10.0}, 300)
    assert used["a"] / used["b"] == pytest.approx(3, rel=0.1)
