"""A reserved node: which one it is in the end, and what of it a decision must not mix up."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.tenant import TenantRule
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.tenants import Tenants
from tests.property.several import Several
from tests.property.test_reserved import (
    NODES,
    comes_before,
    guaranteed,
    kept,
    put_aside,
    queue,
    where,
)

pytestmark = pytest.mark.integration
__all__ = ["guaranteed", "queue"]


def test_an_idle_node_is_free_sooner_than_one_whose_jobs_end(schedule_redis: redis.Redis) -> None:
    """None starts there yet: a holder without a record may be on any node."""
    queue = Several(schedule_redis, NODES, nodes={"a": 4, "b": 4})
    queue.send("in-a", 4, time_limit=30.0)
    queue.client.zadd(queue.key("holders_shared"), {"lost#1": queue.now})
    assert queue.send("W", 2) == []
    assert kept(queue) == ("b", None)


def test_a_job_is_reserved_a_node_by_its_own_number_of_gpus(queue: Several) -> None:
    """In one decision with a larger one, for which the same node is too small."""
    assert queue.send("V", 3) == []
    queue.set_nodes({"a": 3, "b": 3, "c": 2})
    assert queue.admit() == []
    assert queue.record("W")["state"] == "delayed"
    assert kept(queue) == ("a", None)


def test_a_node_that_is_too_small_by_now_is_reserved_no_longer(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 4, "b": 4})
    queue.send("in-a", 3, time_limit=50.0)
    queue.send("in-b", 4)
    queue.send("W", 4)
    assert kept(queue) == ("a", None)
    put_aside(queue, "b")
    queue.set_nodes({"a": 3, "b": 4})
    assert queue.admit() == []
    assert kept(queue) == (None, None)
    queue.now += 101
    assert queue.admit() == []
    assert kept(queue) == ("b", None)


def test_a_node_that_waits_for_other_pods_is_reserved_no_longer(queue: Several) -> None:
    slots = {"shared": 2, "exclusive": 4, "waits": queue.now + 60}
    queue.client.hset(queue.key("domains"), "a", json.dumps(slots))
    for name in ("ends", "ends:4"):
        queue.client.zrem(f"{queue.key('domains')}:{name}", "a")
    assert queue.admit() == []
    assert kept(queue) == ("b", None)


def test_the_job_starts_on_its_node_and_the_next_one_elsewhere(queue: Several) -> None:
    """All at once, when nodes have got more GPUs."""
    assert queue.send("e", 1) == []
    queue.set_nodes({"a": 7, "b": 9, "c": 3})
    assert queue.admit() == ["W", "e"]
    assert (where(queue)["W"], where(queue)["e"]) == ("a", "c")
    queue.check()


def test_a_job_that_comes_before_it_takes_another_node_if_one_has_room(
    guaranteed: Several,
) -> None:
    guaranteed.set_nodes({"a": 2, "b": 2, "c": 1})
    assert comes_before(guaranteed, "r1") == ["r1"]
    assert where(guaranteed)["r1"] == "c"
    assert kept(guaranteed) == ("a", None)


@pytest.mark.parametrize("other", [{"state": "ended"}, {"isolation": "shared"}])
def test_a_leftover_behind_it_takes_no_job_out_of_line(
    schedule_redis: redis.Redis, other: dict[str, Any]
) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 4, "c": 2})
    for name, gpus in (("in-c", 2), ("in-a", 3)):
        queue.send(name, gpus)
    assert queue.send("W", 4, tenant="white") == []
    for name in ("r1", "r2", "r3", "r4"):
        assert queue.send(name, 1, tenant="red") == []
    record = dict(queue.record("r1")) | other
    queue.client.hset(queue.key("jobs"), "r1", json.dumps(record))
    queue.waiting.remove("r1")
    assert queue.end("in-c") == ["r2", "r3"]
    assert queue.end("in-a") == ["W"]


def hold(queue: Several) -> None:
    """The cluster refuses all jobs of the class."""
    entry = {"failures": 1, "jobs": {}, "last": queue.now, "until": queue.now + 100, "pause": 2}
    queue.client.hset(queue.key("places"), "launch:t4", json.dumps(entry))


def test_a_hold_of_the_class_keeps_the_jobs_behind_it_too(queue: Several) -> None:
    assert queue.send("e", 1) == []
    hold(queue)
    assert queue.end("in-c") == []
    assert queue.why("e") == "LAUNCH_REFUSED"


def test_a_job_that_could_start_but_for_a_hold_is_reserved_no_node(
    schedule_redis: redis.Redis,
) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 2})
    hold(queue)
    assert queue.send("W", 2) == []
    assert kept(queue) == (None, None)


def test_the_node_of_a_job_that_is_cancelled_goes_to_the_next_one(queue: Several) -> None:
    assert queue.send("V", 4) == []
    queue.line.cancel("t4", "W")
    queue.waiting.remove("W")
    assert queue.admit() == []
    assert (kept(queue)[0], queue.gate("reserved_for")) == ("a", "V")


def test_a_shared_job_goes_to_no_node_that_takes_a_job_behind_it(queue: Several) -> None:
    assert queue.send("s") == []
    assert queue.send("e", 1) == []
    queue.set_nodes({"a": 4, "b": 4, "c": 3, "d": 2})
    assert queue.admit() == ["s", "e"]
    assert (where(queue)["s"], where(queue)["e"]) == ("d", "c")
    queue.check()


def test_a_job_before_it_that_no_node_takes_leaves_its_node(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 2, "b": 4})
    Tenants(queue.client).set("t4", {"red": TenantRule(guaranteed=8)})
    for name, gpus in (("in-a", 1), ("in-b", 4)):
        queue.send(name, gpus)
    put_aside(queue, "b")
    assert queue.send("W", 2, tenant="blue") == []
    assert queue.send("V", 4, tenant="red") == []
    assert (kept(queue), queue.gate("reserved_for")) == (("a", None), "W")
    assert queue.gate("strict") is None


def test_a_job_before_it_gets_the_node_that_it_would_get_alone(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 2, "b": 2})
    Tenants(queue.client).set("t4", {"red": TenantRule(guaranteed=4)})
    for name, gpus, limit in (("in-a", 2, 50.0), ("in-b", 2, 50.0)):
        queue.send(name, gpus, time_limit=limit)
    assert queue.send("W", 2, tenant="blue") == []
    queue.client.hset(queue.key("gate"), "reserved", "b")
    assert queue.send("V", 2, tenant="red") == []
    assert (kept(queue)[0], queue.gate("reserved_for")) == ("a", "V")


def test_tenants_take_turns_behind_it_also_after_a_job_that_no_node_takes(
    schedule_redis: redis.Redis,
) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 4, "c": 2})
    for name, gpus in (("c1", 1), ("c2", 1), ("in-a", 4)):
        queue.send(name, gpus)
    assert queue.send("W", 4, tenant="white", priority=0) == []
    for name, gpus, tenant, priority in (
        ("r1", 4, "red", 0),
        ("b1", 1, "blue", 0),
        ("r2", 1, "red", 5),
    ):
        assert queue.send(name, gpus, tenant=tenant, priority=priority) == []
    assert queue.end("c1") == ["b1"]


# -- the node that drains for a job of one GPU -----------------------------------------------------

ONE = GpuClass("t4", shared_slots=2, exclusive_slots=2, exclusive_patience=1, domain="node")


@pytest.fixture
def draining(schedule_redis: redis.Redis) -> Several:
    """Two nodes of two GPUs are full, and c has shared jobs without a limit."""
    queue = Several(schedule_redis, ONE, nodes={"a": 2, "b": 2, "c": 2})
    for name, limit in (("a1", 10.0), ("a2", 500.0), ("b1", 30.0), ("b2", 30.0)):
        queue.send(name, 1, time_limit=limit)
    assert where(queue) == {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
    queue.send("s1")
    assert queue.send("e", 1) == []
    assert queue.send("s2") == ["s2"]
    assert kept(queue) == (None, "b")
    return queue


def test_for_one_gpu_the_node_counts_that_is_idle_soonest(draining: Several) -> None:
    draining.client.hset(draining.key("gate"), "drained", "a")
    assert draining.admit() == []
    assert kept(draining) == (None, "b")


def test_some_node_drains_though_all_are_overdue(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, ONE, nodes={"a": 2})
    queue.send("s1", time_limit=5.0)
    queue.send("e", 1)
    queue.send("s2", time_limit=5.0)
    queue.now += 400
    queue.client.hdel(queue.key("gate"), "drained", "until")
    assert queue.admit() == []
    assert kept(queue) == (None, "a")


def test_a_planned_end_stays_though_a_job_began_later(draining: Several) -> None:
    """Else each job that is let in until then would let in more."""
    planned = draining.gate("until")
    draining.now += 20
    record = draining.running["b2"]
    ExecutorAttempt(draining.client, Attempt.of(record), record["token"]).claim("ns/j/u", "w")
    assert draining.admit() == []
    assert (kept(draining), draining.gate("until")) == ((None, "b"), planned)
