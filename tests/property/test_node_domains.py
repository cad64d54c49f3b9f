"""A class whose domains are nodes, as its leader says: which node a job gets, and which none."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import REJECTION, End
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.domains import Domains
from gpuqueue.store.keys import class_key
from gpuqueue.store.measures import Measures
from tests.property.going_on import POD, Instance
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1, domain="node")
SLOTS = {"shared": 2, "exclusive": 1}
AB = {"a": SLOTS, "b": SLOTS}
Job = dict[str, Any]


class Queue(OpenClass):
    """Jobs of a cluster. ``running``: name → record, as it was granted."""

    def __init__(self, client: redis.Redis, gpu_class: GpuClass = T4) -> None:
        super().__init__(client, owner="cluster", max_attempts=2)
        self.gpu_class = gpu_class
        self.running: dict[str, Job] = {}

    def _start(self, granted: Any) -> list[str]:
        self.running |= {each["delivery"]: each for each in granted}
        return [f"{each['delivery']}@{each.get('domain')}" for each in granted]

    def admit(self) -> list[str]:
        return self._start(self.line.admit(self.gpu_class))

    def send(self, name: str, isolation: str = "shared", **fields: Any) -> list[str]:
        record: Any = {"delivery": name, "id": name, "isolation": isolation, "gpu_class": "t4"}
        return self._start(self.line.take_in(self.gpu_class, record | fields, "{}").granted)

    def attempt(self, name: str) -> Attempt:
        record = self.running[name]
        return Attempt("t4", name, record["attempt"], record["token"])

    def ends(self, name: str, end: End | None = None) -> list[str]:
        attempt = self.attempt(name)
        del self.running[name]
        end = end or End(EndReason.ERROR, "gone")
        return self._start(self.line.release(self.gpu_class, attempt, end, "").granted)

    def finds_no_room(self, name: str) -> list[str]:
        """Its pod waits for its node for too long, and is deleted."""
        node = self.running[name]["domain"]
        end = End(EndReason.UNSCHEDULABLE, "no room", node, blames=REJECTION)
        assert self.line.give_up(self.attempt(name), end)
        return self.ends(name, End(EndReason.POD_DELETED, "deleted"))

    def due_again(self, place: str) -> float:
        """When a place that is set aside may be tried."""
        entry: Any = self.client.hget(class_key("t4", "places"), place)
        return float(json.loads(entry)["until"])

    def nodes(self, nodes: dict[str, Any] | None) -> bool:
        return self.line.set_nodes(self.gpu_class, nodes)

    def why(self, name: str) -> str:
        found = self.reader.why(self.gpu_class, name)
        assert found is not None
        return found.reason

    def kept(self) -> list[str]:
        return sorted(self.client.scan_iter(f"{class_key('t4', 'domains')}*"))


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    queue = Queue(schedule_redis)
    assert queue.nodes(AB)
    return queue


def test_no_job_starts_until_a_node_is_known(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis)
    assert queue.send("s") + queue.send("e", "exclusive") == []
    assert [queue.why("s"), queue.why("e")] == ["UNSCHEDULABLE"] * 2
    assert queue.nodes({"b": SLOTS})
    assert queue.admit() == ["s@b"]
    assert [queue.nodes({"b": SLOTS}), queue.admit()] == [False, []]
    assert queue.nodes(AB)
    assert queue.admit() == ["e@a"]


def test_an_exclusive_job_runs_beside_shared_jobs_of_another_node(queue: Queue) -> None:
    assert queue.send("s1") == ["s1@a"]
    assert queue.send("e1", "exclusive") == ["e1@b"]
    assert queue.send("s2") == ["s2@a"]
    assert queue.send("s3") + queue.send("e2", "exclusive") == []
    assert queue.ends("e1") == ["s3@b"]
    assert queue.ends("s1") + queue.ends("s2") == ["e2@a"]


def test_a_change_of_either_slots_of_a_node_is_seen(queue: Queue) -> None:
    for slots in ({"shared": 2, "exclusive": 0}, {"shared": 1, "exclusive": 0}):
        assert queue.nodes({"a": slots, "b": SLOTS})
        assert [each.slots for each in Domains(queue.client).of("t4")] == [slots, SLOTS]


def test_a_holder_without_its_record_may_be_on_any_node(queue: Queue) -> None:
    """Its record is lost, or is that of a later attempt."""
    for name in ("s1", "s2"):
        queue.send(name)
    queue.client.hdel(class_key("t4", "jobs"), "s1")
    queue.client.zadd(class_key("t4", "holders_shared"), {"s2#7": 0})
    queue.client.delete(class_key("t4", "domains") + ":held")
    queue.nodes({**AB, "c": SLOTS})
    of: Any = queue.client.hgetall(class_key("t4", "domains") + ":of")
    assert of == {"s1#1": "", "s2#1": "a", "s2#7": ""}


def test_a_node_that_drains_gives_way_to_a_better_one_alone(queue: Queue) -> None:
    queue.gpu_class = replace(T4, exclusive_patience=1)
    for name in ("s1", "s2", "s3", "s4"):
        queue.send(name)
    queue.send("e", "exclusive")
    queue.send("s5")
    for ended, drains in (("s1", "a"), ("s4", "b"), ("s2", "b")):
        queue.ends(ended)
        found = Domains(queue.client).of("t4")
        assert [each.name for each in found if each.drained] == [drains]


def test_a_job_avoids_the_node_where_it_has_failed(queue: Queue) -> None:
    assert queue.send("s1") == ["s1@a"]
    assert queue.send("s2", avoid=["node:a"]) == ["s2@b"]


@pytest.mark.parametrize("adopted", [False, True])
def test_no_job_starts_beside_a_holder_that_may_be_there(queue: Queue, adopted: bool) -> None:
    """Also one that would end in time in the node that drains."""
    queue.gpu_class = replace(T4, exclusive_patience=1)
    for name, limit in (("s1", 50), ("s2", 50), ("s3", 100), ("s4", 100)):
        queue.send(name, time_limit=limit)
    queue.send("e", "exclusive")
    queue.ends("s1")
    assert queue.send("s5", time_limit=50) == ["s5@a"]
    queue.ends("s2")
    assert [each.drained for each in Domains(queue.client).of("t4")] == [True, False]
    if adopted:
        record: Any = {"delivery": "x", "id": "x", "isolation": "exclusive", "attempt": 1}
        record |= {"token": "t", "instance": "u", "gpu_class": "t4"}
        assert queue.line.adopt("t4", record)
    assert queue.send("short", time_limit=1) == ([] if adopted else ["short@a"])


@pytest.mark.parametrize("isolation", ["shared", "exclusive"])
def test_damaged_slots_of_a_node_keep_no_slot_taken(queue: Queue, isolation: str) -> None:
    queue.send("s1")
    damaged = json.dumps({**SLOTS, isolation: []})
    queue.client.hset(class_key("t4", "domains"), "a", damaged)
    queue.ends("s1")
    assert queue.nodes(AB)
    assert [each.held["shared"] for each in Domains(queue.client).of("t4")] == [0, 0]


def test_nodes_are_set_again_after_a_loss_of_the_gate(queue: Queue) -> None:
    queue.client.delete(class_key("t4", "gate"))
    assert queue.nodes(AB) and not queue.nodes(AB)
    assert queue.client.hget(class_key("t4", "gate"), "shares") == "4"


def test_nodes_are_set_again_where_the_gate_does_not_say_so(queue: Queue) -> None:
    gate = class_key("t4", "gate")
    queue.client.hdel(gate, "domains")
    assert queue.nodes(AB)
    assert queue.client.hget(gate, "domains") == "node"
    assert not queue.nodes(AB)


def test_a_slot_that_an_older_version_has_freed_is_free_with_the_next_look(queue: Queue) -> None:
    queue.send("s1")
    queue.client.zrem(class_key("t4", "holders_shared"), "s1#1")
    queue.nodes(AB)
    assert [each.held["shared"] for each in Domains(queue.client).of("t4")] == [0, 0]


def test_a_node_has_the_slots_that_it_advertises(queue: Queue) -> None:
    queue.nodes({"a": {"shared": 1, "exclusive": 1}, "b": {"shared": 2, "exclusive": 0}})
    assert queue.send("s1") == ["s1@a"]
    assert queue.send("s2") == ["s2@b"]
    assert queue.ends("s2") == []
    assert queue.send("e", "exclusive") == []
    assert queue.ends("s1") == ["e@a"]


def test_the_slots_of_a_class_are_those_of_its_nodes(queue: Queue) -> None:
    found = Domains(queue.client)
    queue.nodes({"a": {"shared": 1, "exclusive": 1}, "b": SLOTS})
    assert found.slots(T4) == {"shared": 3, "exclusive": 2}
    assert Measures(queue.client).slots(T4) == {"shared": 3, "exclusive": 2}
    queue.send("e", "exclusive")
    queue.nodes({})
    assert found.slots(T4) == {"shared": 0, "exclusive": 0}
    one = GpuClass("t4", shared_slots=2, exclusive_slots=1)
    assert found.slots(one) == {"shared": 2, "exclusive": 1}


def test_a_node_that_leaves_keeps_its_jobs_and_gets_no_other(queue: Queue) -> None:
    queue.send("s1"), queue.send("e1", "exclusive")
    assert queue.nodes({"b": SLOTS})
    assert queue.send("s2") + queue.send("e2", "exclusive") == []
    assert queue.ends("e1") == ["s2@b"], "the other node goes on"
    assert queue.nodes(AB), "it is back, with its jobs"
    assert queue.admit() == []
    assert queue.ends("s1") == ["e2@a"]


def test_a_node_without_room_is_left_out_and_costs_the_job_nothing(queue: Queue) -> None:
    assert queue.send("s") == ["s@a"]
    assert queue.finds_no_room("s") == ["s@b"]
    assert queue.finds_no_room("s") == []
    assert queue.why("s") == "NODE_SET_ASIDE"
    queue.now = queue.due_again("node:a")
    assert queue.admit() == ["s@a"], "the probe of the node"
    assert queue.finds_no_room("s") == ["s@b"]
    assert queue.due_again("node:a") > queue.now + 3, "each pause is longer"
    record = queue.record("s")
    assert record["attempt"] - record["spared"] == 1, "no attempt is used up"


def test_what_the_cluster_refuses_to_every_job_holds_all_nodes(queue: Queue) -> None:
    aside = {"failures": 1, "jobs": {}, "last": queue.now, "until": queue.now + 100, "pause": 100}
    queue.client.hset(class_key("t4", "places"), "quota:t4", json.dumps(aside))
    assert queue.send("s1") == []
    assert queue.why("s1") == "QUOTA"
    queue.now += 101
    assert queue.admit() == ["s1@a"]


def test_a_job_goes_last_to_the_node_where_it_has_failed(queue: Queue) -> None:
    assert queue.send("s1") + queue.send("s2") == ["s1@a", "s2@a"]
    assert queue.ends("s2", End(EndReason.EVICTED, "evicted", "a")) == []
    queue.now += 60
    queue.line.tick("t4")
    assert queue.admit() == ["s2@b"], "though the other one is fuller"


def test_pods_without_a_job_leave_the_node_of_a_job_they_must_not_meet(queue: Queue) -> None:
    """The cluster keeps a pod away from them, too."""
    pod = {"last": "x#1", "site": "cluster", "application": "", "name": "p", "isolation": "shared"}
    for name, node in (("p1", "a"), ("p2", "b")):
        queue.client.hset(class_key("t4", "warm"), name, json.dumps(pod | {"node": node}))
        queue.client.zadd(class_key("t4", "warm_until"), {name: queue.now + 60})
    assert queue.send("s", image="x:1") == ["s@a"]
    waiting = class_key("t4", "warm_until")
    assert queue.client.zcard(waiting) == 2
    assert queue.send("e", "exclusive") == ["e@b"]
    assert queue.client.zrange(waiting, 0, -1) == ["p1"]


def test_a_holder_without_a_node_gets_the_one_of_its_pod(schedule_redis: redis.Redis) -> None:
    """So are those of a version without nodes."""
    queue = Queue(schedule_redis, GpuClass("t4", shared_slots=2, exclusive_slots=1))
    assert queue.send("s1") == ["s1@None"]
    queue.gpu_class = T4
    assert queue.nodes(AB)
    assert queue.send("e1", "exclusive") == [], "it may be anywhere"
    assert queue.send("s2") == ["s2@a"]
    record = queue.record("s1") | {"node": "b"}
    queue.client.hset(class_key("t4", "jobs"), "s1", json.dumps(record))
    assert queue.nodes(AB)
    assert queue.send("s3") == ["s3@a"], "the exclusive job has no idle node"
    assert queue.ends("s1") == ["e1@b"]


def test_a_class_that_has_no_nodes_any_more_is_one_domain(queue: Queue) -> None:
    queue.send("s1"), queue.send("e1", "exclusive")
    queue.gpu_class = GpuClass("t4", shared_slots=2, exclusive_slots=1)
    assert queue.nodes(None)
    assert queue.kept() == []
    assert not queue.nodes(None)
    assert queue.send("s2") == []
    assert queue.why("s2") == "EXCLUSIVE_RUNNING"
    assert queue.ends("e1") == ["s2@None"]


def test_nodes_stay_though_a_dispatcher_with_other_settings_starts_jobs(queue: Queue) -> None:
    """Its leader says which they are, also while its dispatchers are replaced."""
    assert queue.send("e1", "exclusive") == ["e1@a"]
    queue.line.admit(replace(T4, domain="class"))
    assert queue.send("s1") == ["s1@b"]


def test_the_gpus_of_a_machine_are_no_nodes(schedule_redis: redis.Redis) -> None:
    """A class of a machine has moved to a cluster."""
    queue = Queue(schedule_redis)
    queue.client.hset(class_key("t4", "domains"), "0", json.dumps(SLOTS))
    queue.client.zadd(f"{class_key('t4', 'domains')}:shared", {"0": 2})
    queue.client.hset(class_key("t4", "gate"), "domains", "device:2:2:1")
    assert queue.send("s1") == []
    assert queue.nodes(AB)
    assert queue.admit() == ["s1@a"]


def test_a_pod_goes_on_with_jobs_of_its_node(schedule_redis: redis.Redis) -> None:
    pod = Instance(schedule_redis, POD)
    pod.gpu_class = replace(T4, shared_slots=1)
    pod.announce()
    pod.line.set_nodes(pod.gpu_class, {name: SLOTS | {"shared": 1} for name in ("n1", "n2")})
    pod.start()
    assert [each["domain"] for each in pod.submit("other")] == ["n2"]
    assert pod.submit("b", "c") == []
    assert pod.ask() == "b"
    assert pod.record("b")["domain"] == "n1"
    assert pod.submit("d") == []


def test_a_pod_goes_on_once_its_node_is_a_domain(schedule_redis: redis.Redis) -> None:
    """Until then, it could take the jobs of a node that others have."""
    pod = Instance(schedule_redis, POD)
    pod.gpu_class = replace(T4, shared_slots=1, scale_to=1)
    pod.announce()
    pod.line.set_nodes(pod.gpu_class, {}, more=1)
    asker = pod.start()
    assert pod.submit("b") == []
    assert pod.answer() == "none"
    pod.line.observed([Observation(asker.attempt, pod="p", node="n1")])
    assert pod.ask() == "b"
    assert pod.record("b")["domain"] == "n1"
