"""Domains whose node does not exist yet (`scale_to`): who gets one, and how it gets its node."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.unbound import is_unbound
from gpuqueue.store.domains import Domains
from gpuqueue.store.keys import class_key
from gpuqueue.store.usage import Capacities, Usage
from tests.property.scaled import AUTO, Scaled
from tests.property.test_node_domains import SLOTS

pytestmark = pytest.mark.integration


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Scaled:
    queue = Scaled(schedule_redis, AUTO)
    assert queue.look()
    return queue


def starts(queue: Scaled, name: str, isolation: str = "shared", **fields: Any) -> str:
    """Send a job that starts at once; return its domain."""
    [started] = queue.send(name, isolation, **fields)
    return started.partition("@")[2]


def test_a_class_without_nodes_starts_as_many_as_its_nodes_would_take(queue: Scaled) -> None:
    first, second = starts(queue, "s1"), starts(queue, "s2")
    assert first == second and is_unbound(first), "shared jobs are packed into one node to come"
    alone, third = starts(queue, "e1", "exclusive"), starts(queue, "s3")
    assert len({first, alone, third}) == 3
    assert queue.send("e2", "exclusive") == []
    assert starts(queue, "s4") == third
    assert queue.send("s5") == []
    assert [queue.why("e2"), queue.why("s5")] == ["SHARED_RUNNING", "NO_FREE_SLOT"]
    assert Domains(queue.client).slots(AUTO) == {"shared": 6, "exclusive": 3}
    assert queue.look() is False, "a look that finds the same changes nothing"


def test_nodes_with_room_come_before_nodes_to_come(queue: Scaled) -> None:
    assert queue.look("x", "y")
    assert [starts(queue, "s1"), starts(queue, "e1", "exclusive")] == ["x", "y"]
    assert starts(queue, "s2") == "x"
    assert is_unbound(starts(queue, "e2", "exclusive")), "a new node rather than one that drains"
    queue.ends("e1")
    assert starts(queue, "s3") == "y"
    rooms = [queue.line.room(AUTO, {"isolation": each}) for each in ("shared", "exclusive")]
    assert [each.starts for each in rooms] == [True, False]


def test_the_first_pod_that_gets_a_node_binds_its_domain(queue: Scaled) -> None:
    origin = starts(queue, "s1", time_limit=50)
    assert starts(queue, "s2") == origin
    queue.lands("s1", "a")
    assert [queue.domain("s1"), queue.domain("s2")] == ["a", "a"]
    assert [queue.record(each)["origin"] for each in ("s1", "s2")] == [origin] * 2
    assert queue.of_nodes() == {"a": {"shared": 2, "exclusive": 0}}
    assert len(queue.to_come()) == 2 and origin not in queue.to_come()
    assert not queue.look("a") and queue.of_nodes() == {"a": {"shared": 2, "exclusive": 0}}
    queue.ends("s1")
    assert starts(queue, "s3") == "a"
    assert queue.record("s3")["origin"] == origin, "its pod must not keep away from the others"
    queue.lands("s2", "a")
    queue.lands("s3", "a")
    assert queue.stopped() == []


@pytest.mark.parametrize("damage", ["no record", "another attempt"])
def test_a_holder_whose_record_is_not_its_own_is_bound_in_the_books(
    queue: Scaled, damage: str
) -> None:
    starts(queue, "s1"), starts(queue, "s2")
    jobs, other = class_key("t4", "jobs"), queue.record("s2") | {"attempt": 2}
    if damage == "no record":
        queue.client.hdel(jobs, "s2")
    else:
        queue.client.hset(jobs, "s2", json.dumps(other))
    queue.lands("s1", "a")
    assert queue.of_nodes() == {"a": {"shared": 2, "exclusive": 0}}
    assert len(queue.to_come()) == 2
    assert queue.record("s1")["node"] == "a"
    if damage == "another attempt":
        assert queue.record("s2") == other


def test_a_job_of_two_gpus_binds_its_domain_and_leaves_its_node(
    schedule_redis: redis.Redis,
) -> None:
    queue = Scaled(schedule_redis, replace(AUTO, exclusive_slots=2))
    assert queue.look()
    starts(queue, "e1", "exclusive", gpus=2)
    queue.lands("e1", "a")
    assert queue.of_nodes() == {"a": {"shared": 0, "exclusive": 2}}
    held = queue.client.zrange(f"{class_key('t4', 'domains')}:held", 0, -1)
    assert held == [queue.attempt("e1").holder], "of its slots, the first stands for the holder"
    assert queue.ends("e1") == []
    assert queue.of_nodes() == {"a": {"shared": 0, "exclusive": 0}}


def test_nodes_to_come_cost_nothing_until_they_come(queue: Scaled) -> None:
    Capacities(queue.client, {"t4": AUTO}).note()
    starts(queue, "e1", "exclusive")
    queue.look("a")
    assert Usage(queue.client).of("t4").capacities[-1].domains == 1
    queue.now += 1
    queue.lands("e1", "b")
    assert Usage(queue.client).of("t4").capacities[-1].domains == 2


def test_a_pod_that_is_not_on_its_node_binds_nothing(queue: Scaled) -> None:
    queue.look("a")
    starts(queue, "s1")
    queue.lands("s1", "b")
    assert queue.of_nodes() == {"a": {"shared": 1, "exclusive": 0}}


def test_each_new_node_waits_for_one_domain_that_has_pods(queue: Scaled) -> None:
    queue.look("a")
    starts(queue, "e0", "exclusive"), starts(queue, "e1", "exclusive")
    queue.look("a", "b", "c")
    assert starts(queue, "e2", "exclusive") == "c", "one came that no pod waits for"
    assert queue.send("e3", "exclusive") == [], "the other one is for e1"


def test_a_node_that_appears_waits_for_the_pods_that_made_it_come(queue: Scaled) -> None:
    queue.gpu_class = replace(AUTO, scale_to=1)
    queue.look()
    origin = starts(queue, "e1", "exclusive")
    assert queue.send("e2", "exclusive") == []
    queue.look("a")
    assert queue.admit() == [], "the node is for the pod of e1"
    assert queue.to_come() == [origin]
    queue.lands("e1", "a")
    assert queue.of_nodes() == {"a": {"shared": 0, "exclusive": 1}}
    assert queue.to_come() == []
    assert queue.ends("e1") == ["e2@a"]


def test_a_node_that_no_pod_takes_is_used_by_others(queue: Scaled) -> None:
    queue.gpu_class = replace(AUTO, scale_to=1)
    queue.look()
    starts(queue, "e1", "exclusive")
    queue.send("e2", "exclusive")
    queue.look("a")
    queue.now += 59
    assert not queue.look("a") and queue.admit() == []
    queue.now += 2
    assert queue.look("a") and queue.admit() == ["e2@a"]
    assert queue.ends("e1") == []
    queue.look("a")
    assert queue.to_come() == [], "its place is that of the node"


def test_a_node_that_goes_gives_its_place_back(queue: Scaled) -> None:
    starts(queue, "s1")
    queue.lands("s1", "a")
    queue.look("a", "b")
    assert [len(queue.of_nodes()), len(queue.to_come())] == [2, 1]
    assert queue.look("b", refused=1) and len(queue.to_come()) == 1, "it exists, though cordoned"
    assert queue.domain("s1") == "a"
    queue.ends("s1")
    assert queue.look("b")
    assert [list(queue.of_nodes()), len(queue.to_come())] == [["b"], 2]
    assert "new_1" not in queue.to_come()


def test_a_domain_leaves_with_its_last_job_if_its_place_is_taken(queue: Scaled) -> None:
    queue.gpu_class = replace(AUTO, scale_to=1)
    queue.look()
    own = starts(queue, "s1")
    starts(queue, "s2")
    queue.look("a")
    queue.ends("s1")
    assert queue.to_come() == [own]
    queue.now += 61
    queue.look("a")
    assert starts(queue, "e1", "exclusive") == "a"
    queue.ends("e1")
    assert list(queue.of_nodes()) == ["a"], "a node that exists stays"
    queue.ends("s2")
    assert queue.to_come() == []


def test_a_name_is_given_once_though_redis_has_lost_it(queue: Scaled) -> None:
    names = queue.to_come()
    queue.client.flushdb()
    queue.now += 60
    queue.line.open("t4")
    queue.look()
    assert not set(names) & set(queue.to_come())


def test_a_pod_on_a_node_that_others_have_gives_its_slot_back(queue: Scaled) -> None:
    """At no cost: its job has its first place in line again."""
    queue.look("a")
    assert starts(queue, "s1") == "a"
    own = starts(queue, "e1", "exclusive")
    queue.lands("e1", "a")
    assert queue.domain("e1") == own, "the books never have both in one domain"
    assert queue.stopped() == ["e1"]
    queue.lands("e1", "a")
    assert queue.ends("e1", End(EndReason.POD_DELETED, "deleted")) == [f"e1@{own}"]
    record = queue.record("e1")
    assert (record["attempt"], record["attempt"] - record["spared"]) == (2, 1)
    assert record["away"] == ["a"], "its next pod does not come there"
    queue.lands("e1", "b")
    assert queue.of_nodes()["b"] == {"shared": 0, "exclusive": 1}


def test_a_pod_that_has_begun_beside_others_ends_where_it_is_counted(queue: Scaled) -> None:
    """Kubernetes has kept it away from pods of the other isolation."""
    queue.look("a")
    starts(queue, "s1")
    own = starts(queue, "e1", "exclusive")
    queue.claims("e1")
    queue.lands("e1", "a")
    assert queue.stopped() == []
    assert queue.domain("e1") == own
    queue.ends("e1"), queue.look("a")
    assert starts(queue, "e2", "exclusive") == own


def test_a_domain_to_come_may_take_a_node_that_is_idle_by_now(queue: Scaled) -> None:
    queue.look("a")
    starts(queue, "s1")
    origin = starts(queue, "e1", "exclusive")
    queue.ends("s1")
    queue.lands("e1", "a")
    assert queue.domain("e1") == "a"
    assert origin not in queue.to_come()
    assert len(queue.to_come()) == 2, "the place of its node is free again"
    assert is_unbound(starts(queue, "s2"))


def test_a_late_pod_on_another_node_counts_there(queue: Scaled) -> None:
    """The first one has ended before the second was placed: nothing kept them together."""
    origin = starts(queue, "s1")
    starts(queue, "s2")
    queue.lands("s1", "a")
    queue.ends("s1")
    queue.lands("s2", "b")
    assert queue.domain("s2") == "b"
    assert queue.of_nodes()["b"] == {"shared": 1, "exclusive": 0}
    assert starts(queue, "s3") == "b"
    assert queue.record("s3")["origin"] == origin


def test_a_node_that_never_comes_holds_the_nodes_to_come_alone(queue: Scaled) -> None:
    queue.look("a")
    starts(queue, "s1")
    starts(queue, "e1", "exclusive")
    assert queue.finds_no_node("e1") == []
    assert queue.why("e1") == "UNSCHEDULABLE"
    assert queue.record("e1")["attempt"] - queue.record("e1")["spared"] == 0
    assert starts(queue, "s2") == "a", "nodes that exist go on"
    assert queue.send("s3") + queue.send("s4") == []
    queue.now = queue.due_again("scheduling:t4")
    other, probe = queue.ends("s2", End(EndReason.SUCCEEDED, ""))
    assert other == "s3@a"
    queue.lands("s3", "a")
    assert probe.startswith("s4@new_"), "one job tries whether a node comes by now"
    assert queue.admit() == []
    assert queue.why("e1") == "UNSCHEDULABLE", "it stays in line beside shared jobs"
    queue.lands("s4", "b")
    assert [each[:6] for each in queue.admit()] == ["e1@new"], "one came"


def test_a_job_that_no_node_came_for_tries_again_if_none_is_in_its_way(
    queue: Scaled,
) -> None:
    queue.look("a")
    starts(queue, "e1", "exclusive"), starts(queue, "e2", "exclusive")
    starts(queue, "e3", "exclusive")
    assert queue.send("s1") == []
    assert queue.finds_no_node("e2") == [] and queue.finds_no_node("e3") == []
    queue.now = queue.due_again("scheduling:t4")
    assert [each[:6] for each in queue.admit()] == ["s1@new"], "no node came for e2"
    assert queue.finds_no_node("s1") == []
    queue.now = queue.due_again("scheduling:t4")
    assert queue.admit() == [], "both stay in line for the node that exists"
    assert queue.why("s1") == queue.why("e2") == "UNSCHEDULABLE"
    queue.line.cancel("t4", "s1", terminate=True)
    assert [each[:6] for each in queue.admit()] == ["e2@new"], "no shared job is in its way"


def test_a_shared_job_that_no_node_came_for_tries_again_if_none_is_ahead(
    queue: Scaled,
) -> None:
    queue.look("a")
    starts(queue, "e1", "exclusive"), starts(queue, "s1")
    assert queue.finds_no_node("s1") == []
    queue.now = queue.due_again("scheduling:t4")
    assert [each[:6] for each in queue.admit()] == ["s1@new"]


def test_an_exclusive_job_that_no_node_came_for_stays_beside_shared_ones(queue: Scaled) -> None:
    queue.look("a")
    starts(queue, "s1"), starts(queue, "e1", "exclusive", priority=5)
    assert queue.finds_no_node("e1") == []
    queue.now = queue.due_again("scheduling:t4")
    assert queue.admit() == [], "none waits, and one runs"
    assert [each[:6] for each in queue.send("e2", "exclusive")] == ["e2@new"], "first"
    queue.client.hdel(class_key("t4", "jobs"), "e1")
    assert queue.finds_no_node("e2") == []
    queue.now = queue.due_again("scheduling:t4")
    queue.client.hdel(class_key("t4", "jobs"), "e2")
    assert queue.admit() == [] and queue.send("s2") == ["s2@a"], "nothing is known of them"


def test_a_node_with_room_is_no_second_choice_to_one_that_may_come_now(queue: Scaled) -> None:
    queue.look("a")
    starts(queue, "s1"), starts(queue, "s2")
    assert is_unbound(starts(queue, "s3"))
    assert queue.finds_no_node("s3") == []
    queue.now = queue.due_again("scheduling:t4")
    assert queue.ends("s1", End(EndReason.SUCCEEDED, "")) == ["s3@a"]
    assert "probes" not in queue.record("s3"), "a node that exists proves nothing"


def test_pods_of_nodes_to_come_keep_off_nodes_that_are_set_aside(queue: Scaled) -> None:
    queue.look("a")
    assert starts(queue, "s1") == "a"
    [again] = queue.finds_no_room("s1")
    assert is_unbound(again.partition("@")[2])
    assert queue.record("s1")["away"] == ["a"]
    assert "away_until" not in queue.record("s1"), "it waits for a new node, not for that one"
    queue.lands("s1", "b")
    assert starts(queue, "s2") == "b" and "away" not in queue.record("s2"), "it is pinned"


def test_a_pod_of_a_node_to_come_keeps_off_each_bad_node_once(queue: Scaled) -> None:
    failed = {"failures": 1, "jobs": {}, "last": queue.now}
    aside = failed | {"until": queue.now + 100, "pause": 100}
    for place, entry in (("node:a", aside), ("node:b", failed), ("image:other", aside)):
        queue.client.hset(class_key("t4", "places"), place, json.dumps(entry))
    starts(queue, "s1", avoid=["a"])
    assert queue.record("s1")["away"] == ["a"]


def test_fewer_nodes_take_away_those_to_come_that_are_idle(queue: Scaled) -> None:
    own = starts(queue, "s1")
    queue.gpu_class = replace(AUTO, scale_to=1)
    assert queue.look() and queue.to_come() == [own]
    queue.gpu_class = replace(AUTO, scale_to=None)
    assert queue.nodes({"a": SLOTS})
    assert queue.to_come() == [own], "it has a pod"
    queue.lands("s1", "b")
    assert queue.of_nodes()["b"] == {"shared": 1, "exclusive": 0}


def test_nodes_beside_a_fixed_list_are_known_by_their_pods(queue: Scaled) -> None:
    queue.gpu_class = replace(AUTO, nodes=["a"])
    queue.look("a")
    assert len(queue.to_come()) == 2
    starts(queue, "s1"), starts(queue, "e1", "exclusive")
    queue.lands("e1", "b")
    assert not queue.look("a") and set(queue.of_nodes()) == {"a", "b"}
    queue.ends("e1")
    assert queue.look("a") and set(queue.of_nodes()) == {"a"}
    assert len(queue.to_come()) == 2


def test_a_node_of_a_fixed_list_may_be_the_one_that_pods_came_to(queue: Scaled) -> None:
    queue.gpu_class = replace(AUTO, nodes=["a", "b"])
    queue.look("a", "b")
    starts(queue, "s1"), starts(queue, "e1", "exclusive")
    own = starts(queue, "e2", "exclusive")
    queue.ends("s1")
    queue.lands("e2", "a")
    queue.look("a", "b")
    assert len(queue.to_come()) == 1 and own not in queue.to_come()
    queue.gpu_class = replace(AUTO, nodes=["a"])
    queue.look("a")
    assert set(queue.of_nodes()) == {"a"}, "the other one has jobs, and is none of the list"


def test_a_class_that_is_one_domain_again_binds_nothing(queue: Scaled) -> None:
    starts(queue, "s1")
    queue.gpu_class = replace(AUTO, domain=None, scale_to=None)
    assert queue.nodes(None)
    queue.lands("s1", "a")
    assert queue.kept() == []
    assert queue.client.hmget(class_key("t4", "gate"), "scale", "new_node") == [None, None]


def test_a_lost_state_learns_again_which_pods_made_a_node_come(queue: Scaled) -> None:
    origin = starts(queue, "s1")
    queue.lands("s1", "a")
    record = queue.record("s1") | {"instance": "ns/s1/1"}
    queue.client.flushdb()
    queue.line.open("t4")
    queue.look("a")
    assert queue.line.adopt("t4", record, 2)
    assert starts(queue, "s2") == "a"
    assert queue.record("s2")["origin"] == origin
