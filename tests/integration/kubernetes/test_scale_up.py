"""A class whose nodes an autoscaler adds: its jobs start without any, and keep apart on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gpuqueue.store.domains import Domains
from tests.doubles.kubernetes import Node
from tests.integration.kubernetes.test_cli import call
from tests.support.cluster_stack import ClusterStack
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]
SHARED, ALONE = "gpu.t4.shared", "gpu.t4.exclusive"
ENV = {
    "T4_DOMAIN": "node",
    "T4_SCALE_TO": "2",
    "T4_SHARED_SLOTS": "4",
    "T4_EXCLUSIVE_SLOTS": "1",
    "GPUQUEUE_WARM_SECONDS": "0",
    "GPU_UNSCHEDULABLE_TIMEOUT": "30",
}
POOL = Node("pool", resources={"nvidia.com/gpu": "4"})
Make = Callable[..., ClusterStack]


def sent(stack: ClusterStack, key: str, queue: str) -> Any:
    """Send a job that gets a slot at once."""
    result = stack.shop.hold.apply_async((key,), queue=queue)
    stack.in_state(result.id, "launching", "running")
    return result


def waits(stack: ClusterStack, result: Any) -> bool:
    return stack.known(result.id).get("wait") == "UNSCHEDULABLE"


def test_nodes_come_for_jobs_and_their_places_are_given_again(stacks: Make, key: str) -> None:
    stack = stacks(ENV, nodes=[])
    stack.dispatcher("one")
    shared = [sent(stack, f"{key}-{number}", SHARED) for number in range(3)]
    alone = sent(stack, f"{key}-alone", ALONE)
    until(lambda: waits(stack, alone), 2 * PATIENCE, "no node takes its pod")
    waiting = stack.shop.add.apply_async((1, 1), queue=ALONE)
    stack.in_state(waiting.id, "waiting")
    _, out, _ = call(stack, "status")
    assert "a node to come: shared 3/4 | a node to come: exclusive 1/1" in out

    stack.cluster.autoscale(POOL, 2)
    for each in (*(f"{key}-{number}" for number in range(3)), f"{key}-alone"):
        stack.told(each)
    until(lambda: "node" in stack.known(alone.id), PATIENCE, "its pod was seen")
    records = [stack.known(each.id) for each in (*shared, alone)]
    nodes = [each["node"] for each in records]
    assert nodes == [each["domain"] for each in records]
    assert nodes[0] == nodes[1] == nodes[2] != nodes[3]
    assert {each["attempt"] for each in records} == {1}, "no pod has come to a node of others"

    # A job of a node that has come is sent there, beside pods that wait for no other.
    later = stack.shop.add.apply_async((2, 1), queue=SHARED)
    assert later.get(2 * PATIENCE) == 3
    assert stack.known(later.id)["domain"] == nodes[0]
    stack.go(f"{key}-alone")
    assert waiting.get(2 * PATIENCE) == 2
    assert stack.known(waiting.id)["domain"] == nodes[3]

    # The autoscaler removes the idle node, and its place may be taken again.
    stack.cluster.faults.node_deleted(nodes[3])
    until(
        lambda: [each.bound for each in Domains(stack.client).of("t4")] == [True, False],
        2 * PATIENCE,
        "its place is free",
    )
    for number in range(3):
        stack.go(f"{key}-{number}")
    assert [each.get(PATIENCE) for each in shared] == [f"{key}-{number}" for number in range(3)]
    stack.idle()


def test_jobs_go_on_beside_a_node_that_never_comes(stacks: Make, key: str) -> None:
    env = ENV | {"GPU_UNSCHEDULABLE_TIMEOUT": "2"}
    stack = stacks(env, nodes=[Node("a", resources={"nvidia.com/gpu": "4"})])
    stack.dispatcher("one")
    held = sent(stack, key, SHARED)
    stack.told(key)
    alone = stack.shop.add.apply_async((1, 1), queue=ALONE)
    stack.in_state(alone.id, "launching")
    until(
        lambda: stack.known(alone.id).get("recalled", 0) >= 1, 2 * PATIENCE, "no node came for it"
    )
    others = [stack.shop.add.apply_async((number, 1), queue=SHARED) for number in range(3)]
    assert [each.get(2 * PATIENCE) for each in others] == [1, 2, 3]
    assert {stack.known(each.id)["node"] for each in others} == {"a"}
    stack.go(key)
    assert held.get(PATIENCE) == key
    assert alone.get(3 * PATIENCE) == 2, "the node is idle by now"
    record = stack.known(alone.id)
    assert record["node"] == "a"
    assert record["attempt"] - record.get("spared", 0) == 1
    stack.idle()
