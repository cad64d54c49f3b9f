"""Classes of several domains: what keeps a decision right where something is lost or missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Observation
from gpuqueue.model.ends import End
from gpuqueue.model.place import PlaceKind, Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.unbound import is_unbound
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from tests.property.faulty_machine import APPLICATION, Machine
from tests.property.going_on import POD, Instance
from tests.property.scaled import AUTO, Scaled
from tests.property.test_node_domains import AB, SLOTS, T4, Queue

pytestmark = pytest.mark.integration


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def test_a_shared_job_waits_for_no_exclusive_one_where_none_runs(queue: Queue) -> None:
    queue.nodes({"a": {"shared": 0, "exclusive": 1}})
    assert queue.send("s") == []
    assert queue.why("s") == "NO_FREE_SLOT"


@pytest.mark.parametrize("isolation", ["shared", "exclusive"])
def test_a_job_whose_turn_was_lost_is_not_said_to_lack_a_slot(queue: Queue, isolation: str) -> None:
    queue.send("j", isolation, tenant="red")
    queue.nodes(AB)
    queue.client.delete(class_key("t4", "tenant_order"))
    assert queue.why("j") == "BEHIND_OTHERS"
    assert queue.admit() == ["j@a"]


def test_an_attempt_leaves_its_node_where_no_decision_follows(queue: Queue) -> None:
    """The nodes of the class are those of another cluster by now."""
    queue.nodes(AB)
    assert queue.send("s") == ["s@a"]
    queue.client.hset(class_key("t4", "gate"), "nodes_of", "other")
    queue.ends("s")
    assert queue.client.exists(f"{class_key('t4', 'domains')}:held") == 0


def test_a_class_of_one_domain_keeps_nothing_of_domains(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis, replace(T4, domain=None))
    assert queue.send("s1") + queue.send("s2") == ["s1@None", "s2@None"]
    assert queue.kept() == []


def test_a_planned_limit_counts_until_the_application_tells_its_own(queue: Queue) -> None:
    queue.nodes(AB)
    queue.send("s", planned_limit=100.0)
    executor = ExecutorAttempt(queue.client, queue.attempt("s"), queue.running["s"]["token"])
    executor.claim("ns/j/u", "w", 60.0)
    assert queue.record("s")["planned_limit"] == 100
    executor.loaded()
    assert "planned_limit" not in queue.record("s")


def test_a_cluster_that_is_back_stops_no_machine_whose_gpus_count_by_now(queue: Queue) -> None:
    queue.line.announce([T4], 30)
    queue.line.set_nodes(T4, AB, 0, "cluster")
    queue.now += 100
    gpus = GpuClass("t4", shared_slots=1, exclusive_slots=1, domain="device").on(2)
    line = Line(queue.client, site=Site(host="machine"), devices={"t4": 2})
    assert line.admit(gpus) == []
    queue.line.announce([T4], 30)
    job: Any = {"delivery": "s", "id": "s", "isolation": "shared", "gpu_class": "t4"}
    assert len(line.take_in(gpus, job, "{}").granted) == 1


def test_only_a_gpu_that_fails_is_said_to_be_a_domain_that_fails(
    machine: Callable[..., Machine],
) -> None:
    here = machine(lambda record: record["id"])
    here.gpu_class = GpuClass("t4", shared_slots=1, exclusive_slots=1).on(4)
    here.submit("gpu", "import")
    here.end_all()
    found = {name: each.get("domain") for name, each in here.places().items()}
    assert found == {"device:h/GPU-a": "0", APPLICATION: None}


# -- nodes that may come ---------------------------------------------------------------------------


@pytest.fixture
def scaled(schedule_redis: redis.Redis) -> Scaled:
    """A shared job runs on the only node, and an exclusive one waits for a node to come."""
    scaled = Scaled(schedule_redis, AUTO)
    scaled.look("a")
    scaled.send("s"), scaled.send("e", "exclusive")
    return scaled


def test_a_pod_that_has_no_node_yet_keeps_its_slot(scaled: Scaled) -> None:
    assert scaled.line.observed([Observation(scaled.attempt("e"), pod="p")]) == [True]
    assert scaled.record("e")["pod"] == "p"
    assert is_unbound(scaled.domain("e")) and scaled.stopped() == []


def test_a_pod_that_is_given_up_ends_for_its_first_reason(scaled: Scaled) -> None:
    end = End(EndReason.UNSCHEDULABLE, "no node", blames=PlaceKind.SCHEDULING)
    assert scaled.line.give_up(scaled.attempt("e"), end)
    scaled.lands("e", "a")
    assert (scaled.record("e")["doom_error"], scaled.stopped()) == ("no node", [])


def test_a_pod_that_is_stopped_is_stopped_since_the_first_time(scaled: Scaled) -> None:
    began = scaled.now
    scaled.line.cancel("t4", "e", terminate=True)
    scaled.now += 5
    scaled.lands("e", "a")
    assert "came to node a" in scaled.record("e")["doom_error"]
    assert [since for _, since in scaled.reader.todo("t4", scaled.now).stopping] == [began]


# -- processes and pods that go on -----------------------------------------------------------------


def test_a_pod_on_a_node_that_has_left_the_class_goes_on_with_no_job(
    schedule_redis: redis.Redis,
) -> None:
    pod = Instance(schedule_redis, POD)
    pod.gpu_class = replace(T4, shared_slots=1)
    pod.announce()
    pod.line.set_nodes(pod.gpu_class, {"n1": {"shared": 1, "exclusive": 1}})
    pod.start()
    assert pod.submit("next") == []
    pod.line.set_nodes(pod.gpu_class, {"n2": SLOTS})
    assert pod.answer() in ("none", "waits")
    assert [each["domain"] for each in pod.line.admit(pod.gpu_class)] == ["n2"]


def test_a_look_at_the_next_job_of_a_pod_reserves_nothing(schedule_redis: redis.Redis) -> None:
    pod = Instance(schedule_redis, POD)
    pod.gpu_class = T4
    pod.announce()
    pod.line.set_nodes(T4, {"n1": {"shared": 2, "exclusive": 3}})
    pod.start(isolation="exclusive")
    assert len(pod.submit("b", "c", isolation="exclusive")) == 2
    pod.submit("W", isolation="exclusive", gpus=3)
    gate = class_key("t4", "gate")
    pod.client.hdel(gate, "reserved", "reserved_for")
    assert pod.answer(reuses=True) == "none"
    assert pod.client.hmget(gate, "reserved", "reserved_for") == [None, None]


def test_a_pod_of_no_known_node_waits_beside_jobs_of_the_other_isolation(
    schedule_redis: redis.Redis,
) -> None:
    pod = Instance(schedule_redis, replace(POD, node=None), slots=2)
    pod.start(isolation="exclusive")
    assert (pod.answer(), pod.called()) == ("waits", True)
    assert len(pod.submit("s", warm=None)) == 1
    assert pod.called() is True


def test_a_process_goes_on_beside_as_many_jobs_as_its_gpu_may_have(
    schedule_redis: redis.Redis,
) -> None:
    here = Instance(schedule_redis, devices=2)
    here.gpu_class = GpuClass("t4", shared_slots=4, exclusive_slots=1).on(2)
    here.announce()
    here.start()
    assert len(here.submit(*"bcdefgh", "next")) == 7
    assert here.ask() == "next"
    assert here.record("next")["domain"] == "0"
