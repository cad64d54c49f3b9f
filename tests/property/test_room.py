"""How soon a job would start in a class, as a dispatcher that chooses one asks it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuqueue.classes.choose import Room
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.place import NOWHERE, Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.tenant import TenantRule
from gpuqueue.store.keys import class_key
from gpuqueue.store.tenants import Tenants
from tests.property.open_class import OpenClass
from tests.property.test_twin import (
    CLASSES,
    HALF_LIVES,
    RULES,
    STEPS,
    Compared,
    Starts,
    Step,
    most_of,
)

pytestmark = pytest.mark.integration
GPUS = 3
T4 = GpuClass("t4", shared_slots=4, exclusive_slots=1).on(GPUS)
ONE = GpuClass("t4", shared_slots=2, exclusive_slots=2)
ALONE = GpuClass("t4", exclusive_slots=2)
NODES = GpuClass("t4", shared_slots=2, exclusive_slots=2, domain="node")


class Queue(OpenClass):
    """A class, and its jobs by their names."""

    def __init__(
        self, client: redis.Redis, gpu_class: GpuClass, gpus: int = 0, site: Site = NOWHERE
    ) -> None:
        super().__init__(client, devices={"t4": gpus}, site=site)
        self.gpu_class = gpu_class

    def send(self, *names: str, isolation: str = "shared", **fields: Any) -> None:
        for name in names:
            record: Any = {"delivery": name, "id": name, "isolation": isolation, "gpu_class": "t4"}
            self.line.take_in(self.gpu_class, record | fields, "{}")

    def ends(self, *names: str) -> None:
        for name in names:
            attempt = Attempt("t4", name, self.record(name)["attempt"])
            self.line.release(self.gpu_class, attempt, End(EndReason.ERROR, "gone"), "")


def room(queue: Queue, isolation: str = "shared", **fields: Any) -> Room:
    record: Any = {"isolation": isolation, **fields}
    return queue.line.room(queue.gpu_class, record)


def held(queue: Queue, isolation: str = "shared", **fields: Any) -> tuple[bool, bool]:
    found = room(queue, isolation, **fields)
    return found.starts, found.held


def set_aside(queue: Queue, place: str, *, due: bool = False) -> None:
    now = queue.now
    entry = {"failures": 2, "jobs": {}, "since": now, "last": now, "error": "broken", "pause": 60}
    entry["until"] = now - 1 if due else now + 60
    queue.client.hset(class_key("t4", "places"), place, json.dumps(entry))


STARTS, BUSY, HELD = (True, False), (False, False), (False, True)


def test_a_job_starts_where_a_slot_is_free_for_its_isolation(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis, ONE)
    assert room(queue) == Room(starts=True, held=False, waiting=0, slots=2)
    queue.send("s1")
    assert [held(queue), held(queue, "exclusive")] == [STARTS, BUSY]
    queue.send("s2", "s3")
    assert room(queue) == Room(starts=False, held=False, waiting=1, slots=2)
    queue.ends("s1", "s2", "s3")
    queue.send("e1", isolation="exclusive")
    assert [held(queue), held(queue, "exclusive")] == [BUSY, STARTS]
    assert held(queue, "exclusive", gpus=2) == BUSY, "one slot is free"


def test_a_job_starts_beside_jobs_that_wait_for_the_other_isolation(
    schedule_redis: redis.Redis,
) -> None:
    queue = Queue(schedule_redis, replace(ONE, exclusive_patience=1))
    queue.send("s1")
    queue.send("e1", isolation="exclusive")
    assert room(queue) == Room(starts=True, held=False, waiting=1, slots=2)
    queue.ends("s1")
    queue.send("s2")
    assert held(queue) == BUSY, "an exclusive job runs"


def test_each_gpu_that_is_a_domain_has_room_by_itself(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis, T4, GPUS)
    assert held(queue, "exclusive") == STARTS, "before the first decision, too"
    queue.send("s1")
    assert room(queue, "exclusive") == Room(starts=True, held=False, waiting=0, slots=GPUS)
    queue.send("e1", "e2", isolation="exclusive")
    assert [held(queue), held(queue, "exclusive")] == [STARTS, BUSY]


def test_a_class_whose_gpus_are_all_set_aside_is_held(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis, T4, GPUS, Site("h", "app"))
    queue.send("s1")
    queue.ends("s1")
    for index in range(GPUS):
        assert held(queue) == STARTS
        set_aside(queue, f"device:h/{index}")
    assert held(queue) == HELD
    queue.send("s2")
    assert room(queue) == Room(starts=False, held=True, waiting=1, slots=12)
    queue.line.cancel("t4", "s2")
    set_aside(queue, "device:h/0", due=True)
    assert held(queue) == STARTS, "one job may try the GPU"


def test_a_class_of_one_domain_with_a_broken_gpu_is_held(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis, ALONE, 2, Site("h", "app"))
    set_aside(queue, "device:h/0")
    assert [held(queue, "exclusive"), held(queue, "exclusive", gpus=2)] == [STARTS, HELD]
    queue.send("e1", isolation="exclusive")
    assert held(queue, "exclusive") == BUSY
    queue.ends("e1")
    set_aside(queue, "device:h/1")
    assert held(queue, "exclusive") == HELD


@pytest.mark.parametrize(
    ("site", "place", "fields"),
    [
        (Site("h", "app"), "host:h", {}),
        (Site("h", "app"), "application:app@h", {}),
        (Site("", "app", images={"t4": "i:1"}), "launch:t4", {}),
        (Site("", "app", images={"t4": "i:1"}), "image:i:1", {}),
        (Site("", "app", images={"t4": "i:1"}), "application:app@i:2", {"image": "i:2"}),
    ],
)
def test_a_class_whose_jobs_are_held_is_held(
    schedule_redis: redis.Redis, site: Site, place: str, fields: dict[str, str]
) -> None:
    queue = Queue(schedule_redis, ONE, site=site)
    queue.send("s1")
    assert held(queue, **fields) == STARTS
    set_aside(queue, place)
    assert held(queue, **fields) == HELD, "also while a job runs that had started before"


def test_a_class_without_nodes_or_with_too_small_ones_is_held(
    schedule_redis: redis.Redis,
) -> None:
    queue = Queue(schedule_redis, NODES)
    assert held(queue) == HELD
    queue.line.set_nodes(
        NODES, {"a": {"shared": 2, "exclusive": 2}, "b": {"shared": 2, "exclusive": 1}}
    )
    assert room(queue, "exclusive") == Room(starts=True, held=False, waiting=0, slots=4)
    assert held(queue, "exclusive", gpus=2) == STARTS
    queue.send("e1", "e2", isolation="exclusive")
    assert [held(queue, "exclusive", gpus=each) for each in (1, 2, 3)] == [STARTS, BUSY, HELD]
    for node in ("a", "b"):
        set_aside(queue, f"node:{node}")
    assert held(queue) == HELD


def test_a_smaller_job_starts_beside_one_of_several_gpus_that_waits(
    schedule_redis: redis.Redis,
) -> None:
    queue = Queue(schedule_redis, NODES)
    slots = {"a": {"shared": 2, "exclusive": 2}, "b": {"shared": 2, "exclusive": 1}}
    queue.line.set_nodes(NODES, slots)
    queue.send("e1", isolation="exclusive", gpus=2)
    queue.send("wide", isolation="exclusive", gpus=2)
    found = [held(queue, "exclusive", gpus=each) for each in (1, 2)]
    assert found == [STARTS, BUSY], "on the node that is not reserved"
    queue.send("e2", isolation="exclusive")
    assert held(queue, "exclusive") == BUSY


def test_a_tenant_at_a_limit_starts_elsewhere(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis, ALONE)
    tenants = Tenants(schedule_redis)
    tenants.set(
        "t4", {"a": TenantRule(max_running=1, max_queued=1), "b": TenantRule(max_running=0)}
    )
    queue.send("a1", isolation="exclusive", tenant="a")
    assert held(queue, "exclusive", tenant="a") == BUSY
    assert held(queue, "exclusive", tenant="c") == STARTS
    queue.send("a2", isolation="exclusive", tenant="a")
    assert held(queue, "exclusive", tenant="a") == HELD, "it would be refused"
    assert held(queue, "exclusive", tenant="c") == STARTS, "none waits for a slot"


def test_a_tenant_with_all_jobs_that_it_may_have_starts_elsewhere(
    schedule_redis: redis.Redis,
) -> None:
    queue = Queue(schedule_redis, ONE)
    Tenants(schedule_redis).set("t4", {"a": TenantRule(max_queued=0)})
    queue.send("s1")
    assert [held(queue, tenant="a"), held(queue, tenant="b")] == [HELD, STARTS]


def test_a_class_of_the_nodes_of_another_cluster_is_held(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis, NODES)
    queue.line.owner = "south"
    queue.line.set_nodes(NODES, {"a": {"shared": 2, "exclusive": 2}}, owner="south")
    queue.send("s1")
    assert held(queue) == STARTS
    queue.line.owner = "north"
    assert held(queue) == HELD


def test_gpus_that_are_all_set_aside_hold_a_class_while_a_job_runs(
    schedule_redis: redis.Redis,
) -> None:
    queue = Queue(schedule_redis, ALONE, 2, Site("h", "app"))
    queue.send("e1", "e2", isolation="exclusive")
    set_aside(queue, "device:h/0")
    set_aside(queue, "application:other@h")
    assert held(queue, "exclusive") == BUSY, "a place of another application"
    set_aside(queue, "device:h/1")
    assert held(queue, "exclusive") == HELD


def test_nodes_of_another_class_that_are_set_aside_hold_no_class(
    schedule_redis: redis.Redis,
) -> None:
    queue = Queue(schedule_redis, NODES)
    queue.line.set_nodes(NODES, {each: {"shared": 1, "exclusive": 1} for each in "ab"})
    queue.send("s1", "s2")
    for node in "az":
        set_aside(queue, f"node:{node}")
    assert held(queue) == BUSY
    set_aside(queue, "node:b")
    assert held(queue) == HELD


class Asked(Compared):
    """Asks for room before each job."""

    def check(self, step: Step) -> Starts:
        found: Room | None = None
        job = self.job(step)
        if step.what == "arrive" and not step.wait:
            record: Any = {"isolation": job.isolation, "tenant": job.tenant, "gpus": job.gpus}
            self.line.admit(self.gpu_class)  # time has passed
            found = self.line.room(self.gpu_class, record)
        started = self.do(step)
        if found:
            assert found.starts == any(job.delivery == name for name, _ in started), (step, found)
        return started


@given(
    gpu_class=CLASSES,
    nodes=st.booleans(),
    steps=STEPS,
    rules=st.none() | RULES,
    half_life=HALF_LIVES,
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_job_starts_at_once_where_that_was_said_and_nowhere_else(
    schedule_redis: redis.Redis,
    gpu_class: GpuClass,
    nodes: bool,
    steps: list[Step],
    rules: dict[str, TenantRule] | None,
    half_life: float,
) -> None:
    """Of one priority: a better one may go before those that wait."""
    queue = Asked(schedule_redis, NODES if nodes else gpu_class, 2 if nodes else most_of(gpu_class))
    if nodes:
        slots = {"a": {"shared": 2, "exclusive": 2}, "b": {"shared": 1, "exclusive": 2}}
        queue.line.set_nodes(NODES, slots)
    if rules:
        queue.with_tenants(rules, half_life)
    queue.play([replace(each, priority=3) for each in steps])
