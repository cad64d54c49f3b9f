"""Between tenants: a job of several GPUs that was first in line, and must wait, keeps its turn."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.tenant import TenantRule
from gpuqueue.store.tenants import Tenants
from tests.property.several import Several

pytestmark = pytest.mark.integration
DAY = 86_400
#: Four GPUs: one domain, or one node.
CLASS = GpuClass("t4", exclusive_slots=4)
NODE = GpuClass("t4", exclusive_slots=4, domain="node")


def full(client: redis.Redis, gpu_class: GpuClass = CLASS, half_life: float = DAY) -> Several:
    """Return a class where red has used more than blue and green; each has a job that runs. W, of
    red, needs three GPUs, and one is free.
    """
    queue = Several(client, gpu_class, nodes={"a": 4} if gpu_class is NODE else None)
    Tenants(client).set("t4", {}, half_life)
    queue.send("red", 1, tenant="red")
    queue.now += 1000
    queue.admit()
    for name in ("blue", "green"):
        assert queue.send(name, 1, tenant=name) == [name]
    queue.now += 1
    assert queue.send("W", 3, tenant="red") == []
    return queue


@pytest.mark.parametrize("half_life", [0, DAY])
@pytest.mark.parametrize("gpu_class", [CLASS, NODE], ids=["class", "node"])
def test_jobs_of_tenants_that_use_less_do_not_keep_it_waiting(
    schedule_redis: redis.Redis, gpu_class: GpuClass, half_life: float
) -> None:
    """Each of the others always has one job that runs, and sends the next one before it ends."""
    queue = full(schedule_redis, gpu_class, half_life)
    assert queue.gate("turn") == "W"
    queue.now += 10
    assert queue.send("blue2", 1, tenant="blue") == [], "a GPU is free, and is for W"
    assert queue.end("blue") == []
    queue.now += 10
    assert queue.send("green2", 1, tenant="green") == []
    assert queue.end("green") == ["W"]
    assert queue.gate("turn") is None
    assert queue.end("red") == ["blue2"], "then they come first again"
    queue.check()


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.5, 40.0]),
        st.sampled_from(["send", "send", "end"]),
        st.sampled_from(["red", "blue", "green", ""]),
        st.sampled_from([1, 1, 1, 2, 3, 4]),
        st.integers(0, 3),
    ),
    min_size=20,
    max_size=60,
)


@given(STEPS, st.sampled_from([0, 30, DAY]))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_job_of_its_priority_starts_before_one_that_has_the_turn(
    schedule_redis: redis.Redis, steps: list[tuple[float, str, str, int, int]], half_life: float
) -> None:
    queue = Several(schedule_redis, CLASS)
    Tenants(schedule_redis).set("t4", {}, half_life)
    for number, (seconds, what, tenant, gpus, pick) in enumerate(steps):
        queue.now += seconds
        has_turn, names = queue.gate("turn"), sorted(queue.running)
        if what == "send":
            named = {"tenant": tenant} if tenant else {}
            started = queue.send(f"j{number}", gpus, **named)
        else:
            started = queue.end(names[pick % len(names)]) if names else queue.admit()
        if has_turn:
            assert started[:1] in ([], [has_turn])


def test_a_better_priority_and_a_guarantee_come_before_it(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, CLASS)
    Tenants(schedule_redis).set("t4", {"gold": TenantRule(guaranteed=1)}, DAY)
    for name in ("red", "blue", "green"):
        queue.send(name, 1, tenant=name, priority=5)
    queue.now += 1
    assert queue.send("W", 2, tenant="red", priority=5) == []
    assert queue.send("same", 1, tenant="new", priority=5) == []
    assert queue.send("better", 1, tenant="new", priority=4) == ["better"]
    assert queue.end("better") == []
    assert queue.send("gold", 1, tenant="gold", priority=9) == ["gold"]
    assert queue.end("gold") == []
    assert queue.end("blue") == ["W"]
    assert queue.end("W") == ["same"]


def test_the_turn_goes_with_the_job(schedule_redis: redis.Redis) -> None:
    queue = full(schedule_redis)
    queue.send("blue2", 1, tenant="blue")
    queue.line.cancel("t4", "W")
    assert queue.gate("turn") is None
    queue.waiting.remove("W")
    assert queue.admit() == ["blue2"]
    assert queue.send("V", 3, tenant="red") == []
    queue.send("green2", 1, tenant="green")
    assert queue.end("blue") == [], "V was first, too"
    assert queue.end("blue2") == []
    assert queue.end("green") == ["V"]


def test_an_older_dispatcher_takes_the_turn_for_a_moment_only(
    schedule_redis: redis.Redis,
) -> None:
    """It knows of no turn, and writes the place of a tenant without it."""
    queue = full(schedule_redis)
    [front] = (each for each in queue.zset("tenant_order") if each.endswith(":red"))
    state: Any = schedule_redis.hget(queue.key("tenants"), "=red")
    by_use = f"{front[:4]}{2100:022.6f}{3:016}{1:016}:red"
    schedule_redis.zrem(queue.key("tenant_order"), front)
    schedule_redis.zadd(queue.key("tenant_order"), {by_use: 1})
    schedule_redis.hset(queue.key("tenants"), "=red", state.replace(front, by_use))
    assert queue.admit() == []
    assert queue.send("blue2", 1, tenant="blue") == []


def test_the_turn_goes_to_the_job_of_several_gpus_that_is_first(
    schedule_redis: redis.Redis,
) -> None:
    queue = full(schedule_redis)
    assert queue.send("better", 2, tenant="green", priority=0) == []
    assert queue.gate("turn") == "W", "of one priority"
    queue.line.cancel("t4", "W")
    queue.waiting.remove("W")
    queue.admit()
    assert queue.gate("turn") == "better"
    assert queue.send("blue2", 1, tenant="blue") == []
    assert queue.end("blue") == ["better"]


def test_a_job_that_needs_one_gpu_has_no_turn(schedule_redis: redis.Redis) -> None:
    queue = full(schedule_redis)
    queue.line.cancel("t4", "W")
    queue.waiting.remove("W")
    assert queue.send("green2", 1, tenant="green") == ["green2"]
    assert queue.send("red2", 1, tenant="red") == []
    assert queue.gate("turn") is None
    queue.send("blue2", 1, tenant="blue")
    assert queue.end("green") == ["blue2"], "blue has used less"
