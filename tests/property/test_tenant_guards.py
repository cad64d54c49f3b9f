"""Tenants: which rules count, which of them are idle, and what is never charged."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.commands.tenants import TRIES, Change, apply
from gpuqueue.errors import GpuQueueError
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.tenant import ClassRules, TenantRule
from gpuqueue.store.keys import CLASSES, class_key
from gpuqueue.store.tenants import RulesChanged, TenantsView
from tests.property.going_on import Instance
from tests.property.tenants import LOSABLE, TenantQueue

pytestmark = pytest.mark.integration
WIDE = GpuClass("t4", shared_slots=4)


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> TenantQueue:
    return TenantQueue(schedule_redis, WIDE)


def test_what_was_used_without_a_half_life_never_counts(queue: TenantQueue) -> None:
    queue.tenants.set("t4", {}, 0)
    queue.send("a")
    queue.after(100)
    queue.end("a-1")
    queue.tenants.set("t4", {}, 3600)
    [tenant] = queue.tenants.of("t4").tenants
    assert (tenant.gpu_seconds, tenant.decayed) == (25, 0)


def test_an_attempt_that_has_lost_its_slot_is_charged_no_further(queue: TenantQueue) -> None:
    queue.send("a")
    queue.after(10)
    attempt = Attempt.of(queue.holding["a-1"])
    queue.client.zrem(queue.key("holders_shared"), attempt.holder)
    assert not queue.line.release(WIDE, attempt, End(EndReason.ERROR, "gone")).freed
    [tenant] = queue.tenants.of("t4").tenants
    assert tenant.gpu_seconds == 0


def test_a_file_leaves_rules_that_it_does_not_name_and_a_half_life(queue: TenantQueue) -> None:
    tenants = queue.tenants
    tenants.set("t4", {"a": TenantRule(weight=9)}, 3600.0)
    tenants.set("t4", {"b": TenantRule(weight=5)})
    assert tenants.of("t4").half_life == 3600, "a command without a half-life leaves it"
    assert tenants.follow({"t4": ClassRules({"c": TenantRule(weight=2)}, 60.0)}, "1") == []
    view = tenants.of("t4")
    assert {name: rule.weight for name, rule in view.rules.items()} == {"a": 9, "b": 5, "c": 2}
    assert view.half_life == 3600


def test_a_rule_that_follows_from_earlier_rules_is_not_set(queue: TenantQueue) -> None:
    queue.tenants.set("t4", {"a": TenantRule(weight=9)})
    before = queue.tenants.of("t4").epoch
    queue.tenants.set("t4", {"b": TenantRule(weight=5)}, epoch=before)
    with pytest.raises(RulesChanged):
        queue.tenants.set("t4", {"a": TenantRule(weight=2)}, 60.0, epoch=before)
    view = queue.tenants.of("t4")
    assert ({name: rule.weight for name, rule in view.rules.items()}, view.epoch) == (
        {"a": 9, "b": 5},
        before + 1,
    )
    assert view.half_life == 86_400


@pytest.mark.parametrize("others", [1, TRIES])
def test_a_command_follows_from_the_rules_that_another_one_has_set(
    queue: TenantQueue, others: int
) -> None:
    queue.client.hset(CLASSES, "t4", json.dumps(WIDE.public()))
    state: Any = SimpleNamespace(client=queue.client, reader=queue.reader)
    seen: list[TenantsView] = []

    def change(view: TenantsView) -> Change:
        seen.append(view)
        if len(seen) <= others:
            queue.tenants.set("t4", {"a": TenantRule(weight=len(seen))})
        return Change({"a": replace(view.rules.get("a") or TenantRule(), max_running=3)})

    if others < TRIES:
        assert apply(state, "t4", change)
        assert queue.tenants.of("t4").rules == {"a": TenantRule(weight=1, max_running=3)}
    else:
        with pytest.raises(GpuQueueError, match="the rules of t4 change all the time; try again"):
            apply(state, "t4", change)
        assert queue.tenants.of("t4").rules == {"a": TenantRule(weight=TRIES)}
    assert len(seen) == min(others + 1, TRIES)


def test_a_tenant_whose_jobs_wait_is_not_idle(queue: TenantQueue) -> None:
    queue.tenants.set("t4", {}, 60)
    for tenant in ("a", "a", "a", "a", "b"):
        queue.send(tenant)
    queue.send("c", eta=queue.now + 10**6)
    queue.after(60 * 21)
    queue.turn()
    assert set(queue.states()) == {"a", "b", "c"} and not queue.zset("tenant_idle")


def test_a_tenant_that_has_used_nothing_is_forgotten_sooner(queue: TenantQueue) -> None:
    queue.tenants.set("t4", {}, 60)
    for tenant in ("a", "a", "a", "a", "b"):
        queue.send(tenant)
    queue.line.cancel("t4", "b-5")
    queue.after(61)
    queue.turn()
    assert set(queue.states()) == {"a"}


def test_a_change_of_a_rule_keeps_no_idle_tenant_longer(queue: TenantQueue) -> None:
    queue.tenants.set("t4", {}, 60)
    queue.send("a"), queue.send("b")
    queue.after(10)
    queue.end("a-1")
    queue.after(600)
    queue.tenants.set("t4", {"a": TenantRule(weight=2)})
    queue.after(660)
    queue.turn()
    assert set(queue.states()) == {"b"}


def test_a_tenant_that_is_listed_as_idle_and_has_jobs_is_kept(queue: TenantQueue) -> None:
    queue.send("a")
    queue.client.zadd(queue.key("tenant_idle"), {"=a": 1, "=lost": 1})
    queue.turn()
    assert set(queue.states()) == {"a"} and not queue.zset("tenant_idle")
    queue.check_index()


def test_an_idle_tenant_that_is_lost_makes_room_for_another_one(queue: TenantQueue) -> None:
    queue.send("a")
    lost = {f"=lost{number:04d}": number for number in range(4096)}
    queue.client.zadd(queue.key("tenant_idle"), lost)
    assert queue.send("b") == "accepted"
    assert set(queue.zset("tenant_idle")) == set(lost) - {"=lost0000"}


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("=a", '{"max_running": -1}'),
        ("=a", '{"max_running": "0"}'),
        ("=a", '{"weight": 0}'),
        ("=a", '{"weight": "2"}'),
        ("=a", '{"weight": 1e999}'),
        ("half_life", '{"seconds": 0.5}'),
        ("half_life", '{"seconds": "60"}'),
    ],
)
def test_a_damaged_rule_counts_as_none(queue: TenantQueue, field: str, text: str) -> None:
    queue.client.hset(queue.key("tenant_rules"), field, text)
    for _ in range(6):
        queue.send("a")
    queue.after(10)
    queue.end("a-1")
    assert queue.running() == {"a": 4}
    queue.check_index()


def test_a_job_that_was_in_no_line_is_cancelled_without_a_tenant(queue: TenantQueue) -> None:
    queue.send("a")
    record: Any = {"delivery": "b", "id": "b", "isolation": "shared", "gpu_class": "t4"}
    assert queue.line.accept("t4", record | {"tenant": "b"}, "{}") == "accepted"
    queue.line.cancel("t4", "b")
    assert set(queue.states()) == {"a"}


def test_a_leftover_of_a_job_that_finishes_leaves_the_line_of_its_tenant(
    queue: TenantQueue,
) -> None:
    queue.send("a")
    assert queue.send("a", reason="REJECTED", error="no") == "finishing"
    queue.client.delete(queue.key("finishing"), queue.key("tenant_order"))
    queue.client.zadd(queue.key("waiting_shared"), {"a-2": 0})
    queue.turn()
    assert set(queue.zset("finishing")) == {"a-2"} and not queue.zset("waiting_shared")
    queue.check_index()


def test_a_look_that_finds_no_tenant_any_more_keeps_none(schedule_redis: redis.Redis) -> None:
    here = Instance(schedule_redis)
    here.submit("b", tenant="red", eta=here.now + 10)
    here.line.cancel("t4", "b")
    here.now += 86_401  # a half-life
    here.announce()
    here.line.tick("t4")
    here.start()
    here.submit("c")
    assert here.client.hkeys(class_key("t4", "tenants")) == [".", "#2", "="]
    here.client.delete(class_key("t4", "tenant_order"))
    assert here.ask() == "c"
    assert here.client.hget(class_key("t4", "gate"), "order") == "arrival"
    assert not here.client.exists(*(class_key("t4", name) for name in LOSABLE))
