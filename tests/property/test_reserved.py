"""While a job of several GPUs waits, one node is reserved for it, and all others go on."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.tenant import TenantRule
from gpuqueue.store.domains import Domains
from gpuqueue.store.tenants import Tenants
from tests.property.going_on import POD, Instance
from tests.property.several import Several

pytestmark = pytest.mark.integration
NODES = GpuClass("t4", shared_slots=2, exclusive_slots=8, exclusive_patience=1, domain="node")


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Several:
    """Two nodes of four GPUs and one of two; the job W of four waits for a, and b is full."""
    made = Several(schedule_redis, NODES, nodes={"a": 4, "b": 4, "c": 2})
    made.send("in-c", 2, time_limit=5.0)
    made.send("in-a", 3, time_limit=50.0)
    made.send("in-b", 4, time_limit=100.0)
    assert where(made) == {"in-a": "a", "in-b": "b", "in-c": "c"}
    assert made.send("W", 4) == []
    assert kept(made) == ("a", None)
    return made


def where(queue: Several) -> dict[str, Any]:
    """Job → its node."""
    return {name: record["domain"] for name, record in queue.running.items()}


def kept(queue: Several) -> tuple[str | None, str | None]:
    """The node that is reserved, and the one that drains."""
    return queue.gate("reserved"), queue.gate("drained")


def put_aside(queue: Several, node: str, **more: Any) -> None:
    entry = {"failures": 2, "jobs": {}, "last": queue.now, "until": queue.now + 100, "pause": 100}
    queue.client.hset(queue.key("places"), f"node:{node}", json.dumps(entry | more))


# -- which node, and who starts elsewhere ----------------------------------------------------------


def test_smaller_jobs_start_on_all_nodes_but_the_reserved_one(queue: Several) -> None:
    assert queue.send("e1", 1) == [], "the free GPU of a is not for it"
    assert queue.why("e1") == "NO_FREE_SLOT"
    assert queue.end("in-c") == ["e1"]
    assert queue.send("e2", 1) == ["e2"]
    assert (where(queue)["e1"], where(queue)["e2"]) == ("c", "c")
    assert queue.end("in-a") == ["W"]
    assert (where(queue)["W"], kept(queue)) == ("a", (None, None))
    queue.check()


def test_it_gets_another_node_that_is_free_before(queue: Several) -> None:
    queue.send("e", 1)
    assert queue.end("in-b") == ["W", "e"]
    assert where(queue)["W"] == "b"
    assert kept(queue) == (None, None)
    queue.check()


def test_the_reserved_node_is_where_enough_gpus_are_free_soonest(
    schedule_redis: redis.Redis,
) -> None:
    """Not where all of them are."""
    queue = Several(schedule_redis, NODES, nodes={"a": 4, "b": 4})
    for name, limit in (("a1", 500.0), ("a2", 20.0), ("a3", 10.0), ("a4", 10.0)):
        queue.send(name, 1, time_limit=limit)
    queue.send("b1", 4, time_limit=30.0)
    assert {where(queue)[name] for name in ("a1", "a2", "a3", "a4")} == {"a"}
    assert queue.send("W", 3) == []
    assert kept(queue)[0] == "a", "three are free after 20 s"
    queue.end("a3")
    queue.send("e", 1)
    assert queue.end("a4") == []
    assert queue.end("a2") == ["W"]
    queue.check()


def test_without_limits_it_waits_for_the_fewest_jobs(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 4, "b": 4})
    for name, gpus in (("a1", 1), ("a2", 1), ("a3", 2), ("b1", 3)):
        queue.send(name, gpus)
    assert where(queue) == {"a1": "a", "a2": "a", "a3": "a", "b1": "b"}
    assert queue.send("W", 2) == []
    assert kept(queue)[0] == "b", "one slot more is enough there"


def test_a_larger_job_behind_it_holds_up_no_smaller_one(queue: Several) -> None:
    for number in range(7):
        queue.send(f"w{number}", 4)
    queue.end("in-c")
    assert queue.send("e", 1) == ["e"]
    queue.send("w7", 4)
    assert queue.send("late", 1) == [], "a decision looks at eight of the jobs behind it"
    queue.check()


# -- both bounds -----------------------------------------------------------------------------------


def test_smaller_jobs_that_start_elsewhere_reopen_no_gate(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 2, "b": 1})
    queue.send("b1", 1)
    queue.send("s1")
    assert queue.send("W", 2) == []
    assert queue.send("s2") == ["s2"], "its patience is 1"
    assert kept(queue) == ("a", "a")
    assert queue.end("s1") == []
    for number in range(1, 4):
        queue.send(f"b{number + 1}", 1)
        assert queue.end(f"b{number}") == [f"b{number + 1}"]
        assert kept(queue) == ("a", "a")
    assert queue.send("s3") == []
    assert queue.why("s3") == "DRAINING_FOR_EXCLUSIVE"
    assert queue.end("s2") == ["W"]
    queue.check()


def test_shared_jobs_have_their_turn_beside_smaller_exclusive_ones(
    schedule_redis: redis.Redis,
) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 2, "b": 1})
    queue.send("b1", 1)
    queue.send("s1")
    queue.send("W", 2)
    queue.send("s2")
    for name in ("b2", "b3"):
        queue.send(name, 1)
    queue.send("s3")
    assert queue.end("b1") == ["b2"]
    assert queue.end("b2") == ["s3"], "one in a row while a shared job waits"
    assert queue.end("s3") == ["b3"]
    queue.check()


def test_tenants_take_turns_behind_it(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 4, "c": 2})
    Tenants(queue.client).set("t4", {"blue": TenantRule(max_running=1)})
    for name, gpus in (("in-c", 2), ("in-a", 3)):
        queue.send(name, gpus)
    queue.now += 10
    assert queue.send("W", 4, tenant="white") == []
    for name, tenant in (("r1", "red"), ("r2", "red"), ("b1", "blue"), ("b2", "blue"), ("n", "")):
        assert queue.send(name, 1, **({"tenant": tenant} if tenant else {})) == []
    assert queue.end("in-c") == ["r1", "b1"]
    assert queue.end("r1") == ["r2"], "blue is at its limit"
    assert queue.end("r2") == ["n"]
    assert kept(queue) == ("a", None)


# -- it no longer waits ----------------------------------------------------------------------------


def behind(queue: Several) -> None:
    """A job behind it waits for the free GPU of a."""
    assert queue.send("e", 1) == []


def test_its_node_is_free_again_once_it_is_cancelled(queue: Several) -> None:
    behind(queue)
    assert queue.line.cancel("t4", "W") == "cancelled"
    queue.waiting.remove("W")
    assert queue.admit() == ["e"]
    assert kept(queue) == (None, None)
    queue.check()


def test_its_node_is_free_again_once_it_expires(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 4})
    queue.send("in-a", 3)
    queue.send("W", 4, expires=queue.now + 10)
    behind(queue)
    queue.now += 11
    queue.waiting.remove("W")
    queue.line.tick("t4")
    assert queue.admit() == ["e"]
    assert queue.record("W")["reason"] == "EXPIRED"
    assert kept(queue) == (None, None)


def test_it_holds_up_none_once_no_node_has_so_many_slots(queue: Several) -> None:
    behind(queue)
    queue.set_nodes({"a": 3, "b": 3, "c": 2})
    queue.end("in-b")
    assert where(queue)["e"] in ("a", "b")
    assert (queue.record("W")["state"], queue.why("W")) == ("delayed", "UNSCHEDULABLE")
    assert kept(queue) == (None, None)
    queue.set_nodes({"a": 4, "b": 4, "c": 2})
    queue.now += 40
    queue.line.tick("t4")
    assert queue.admit() == (["W"] if where(queue)["e"] == "a" else [])


def test_another_node_is_reserved_once_its_own_has_left(queue: Several) -> None:
    behind(queue)
    queue.set_nodes({"b": 4, "c": 2})
    assert queue.admit() == []
    assert kept(queue) == ("b", None)
    queue.set_nodes({"a": 4, "b": 4, "c": 2})
    assert queue.admit() == []
    assert kept(queue) == ("a", None), "it is back"


def test_a_node_that_is_set_aside_is_reserved_for_none(queue: Several) -> None:
    put_aside(queue, "a")
    put_aside(queue, "b")
    behind(queue)
    assert kept(queue) == (None, None)
    assert queue.end("in-c") == ["e"]
    queue.now += 101
    assert queue.admit() == []
    assert kept(queue) == ("a", None), "it may be tried"


def test_a_job_that_keeps_off_a_node_takes_no_reserved_one(queue: Several) -> None:
    queue.send("e", 1)
    assert queue.end("in-c") == ["e"]
    queue.waiting.append("e")
    assert queue.end("e", End(EndReason.EVICTED, "evicted", "c")) == []
    assert queue.record("e")["avoid"] == ["c"]
    queue.now += 60
    queue.line.tick("t4")
    assert queue.admit() == ["e"]
    assert where(queue)["e"] == "c", "rather there than on the reserved node"


def test_a_class_that_is_one_domain_again_reserves_nothing(queue: Several) -> None:
    behind(queue)
    queue.gpu_class = GpuClass("t4", shared_slots=2, exclusive_slots=13)
    queue.line.set_nodes(queue.gpu_class, None)
    assert kept(queue) == (None, None)
    assert queue.admit() == ["W"]


def test_the_views_name_the_reserved_node(queue: Several) -> None:
    found = {each.name: each for each in Domains(queue.client).of("t4")}
    assert [name for name, each in found.items() if each.reserved] == ["a"]


# -- pods that go on -------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["shared", "exclusive"])
def test_a_pod_on_a_node_that_is_kept_free_goes_on_with_no_job_of_others(
    schedule_redis: redis.Redis, isolation: str
) -> None:
    """A node has come, and a job may start there: it is not for the pod."""
    pod = Instance(schedule_redis, POD)
    pod.gpu_class = NODES
    pod.announce()
    nodes = {"n1": {"shared": 3, "exclusive": 2}}
    pod.line.set_nodes(NODES, nodes)
    pod.start(isolation=isolation)
    assert len(pod.submit("beside", isolation=isolation)) == 1
    assert pod.submit("W", isolation="exclusive", gpus=2) == []
    if isolation == "shared":
        assert len(pod.submit("later")) == 1, "its patience is 1"
    assert pod.submit("next", isolation=isolation) == []
    pod.line.set_nodes(NODES, nodes | {"n2": {"shared": 2, "exclusive": 1}})
    assert pod.answer() in ("none", "waits")
    [started] = pod.line.admit(NODES)
    assert (started["delivery"], started["domain"]) == ("next", "n2")


# -- jobs that come before it ----------------------------------------------------------------------


def comes_before(queue: Several, name: str) -> list[str]:
    """One whose tenant has fewer slots than it is guaranteed."""
    return queue.send(name, 1, tenant="red")


@pytest.fixture
def guaranteed(schedule_redis: redis.Redis) -> Several:
    """Two nodes of two GPUs, one job on each; W needs two of one, behind the jobs of red."""
    queue = Several(schedule_redis, NODES, nodes={"a": 2, "b": 2})
    Tenants(queue.client).set("t4", {"red": TenantRule(guaranteed=4)})
    for name, gpus, limit in (("in-a", 1, 10.0), ("wide", 2, 500.0)):
        queue.send(name, gpus, time_limit=limit)
    assert queue.send("W", 2, tenant="blue") == []
    assert kept(queue)[0] == "a"
    return queue


def test_a_job_that_comes_before_it_leaves_its_node_if_it_can(guaranteed: Several) -> None:
    guaranteed.end("wide")
    assert where(guaranteed)["W"] == "b"
    guaranteed.send("V", 2, tenant="blue")
    assert kept(guaranteed)[0] == "a"
    guaranteed.set_nodes({"a": 2, "b": 2, "c": 4})
    assert guaranteed.admit() == ["V"], "a node has come"


def test_none_behind_it_starts_once_its_node_was_taken(guaranteed: Several) -> None:
    """Else jobs before it could have its node, and jobs behind it all others, for ever."""
    queue = guaranteed
    assert comes_before(queue, "r1") == ["r1"]
    assert where(queue)["r1"] == "a", "it goes first, and no other node has room"
    assert queue.send("e1", 1, tenant="green") == []
    assert queue.end("wide") == ["W"]
    assert where(queue)["W"] == "b"
    assert queue.gate("strict") is None

    assert queue.send("V", 2, tenant="blue") == []
    queue.set_nodes({"a": 2, "b": 2, "c": 1})
    assert queue.admit() == ["e1"], "on the new node"
    assert where(queue)["e1"] == "c"
    queue.end("in-a")
    assert comes_before(queue, "r2") == ["r2"]
    assert where(queue)["r2"] == "a"
    assert queue.send("e2", 1, tenant="green") == []
    assert queue.end("e1") == [], "the free GPU of c is for none behind it now"
    assert queue.end("r1") == []
    assert queue.end("r2") == ["V", "e2"]


def test_a_node_whose_jobs_do_not_end_in_time_is_reserved_no_longer(queue: Several) -> None:
    """As one that does not answer, whose slots stay taken."""
    assert kept(queue)[0] == "a"
    queue.now += 50 + 290
    assert queue.admit() == []
    assert kept(queue)[0] == "a"
    queue.now += 20
    assert queue.admit() == []
    assert kept(queue)[0] == "b"
    assert queue.end("in-b") == ["W"]
