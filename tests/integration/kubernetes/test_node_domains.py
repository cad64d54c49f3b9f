"""A class whose domains are the nodes of its cluster, as they come, go, and are out of use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gpuqueue.launchers.kubernetes.api.access import DISPATCHER
from gpuqueue.store.domains import Domains
from tests.contract.test_access import rules
from tests.doubles.kubernetes import Node
from tests.integration.kubernetes.test_cli import call
from tests.support.cluster_stack import ClusterStack
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]
SHARED, ALONE = "gpu.t4.shared", "gpu.t4.exclusive"
ENV = {
    "T4_DOMAIN": "node",
    "T4_SHARED_SLOTS": "4",
    "T4_EXCLUSIVE_SLOTS": "1",
    "GPUQUEUE_WARM_SECONDS": "0",
}
Make = Callable[..., ClusterStack]


def gpu_node(name: str, gpus: int = 4, **fields: Any) -> Node:
    return Node(name, resources={"nvidia.com/gpu": str(gpus)}, **fields)


def known(stack: ClusterStack) -> dict[str, int]:
    """Node → its shared slots."""
    return {each.name: each.slots["shared"] for each in Domains(stack.client).of("t4")}


def wait_for_nodes(stack: ClusterStack, nodes: dict[str, int]) -> None:
    until(lambda: known(stack) == nodes, 2 * PATIENCE, f"{nodes}", lambda: str(known(stack)))


def held(stack: ClusterStack, key: str, queue: str) -> Any:
    result = stack.shop.hold.apply_async((key,), queue=queue)
    stack.told(key)
    return result


def node_of(stack: ClusterStack, result: Any) -> str:
    record = stack.known(result.id)
    assert record["node"] == record["domain"]
    return record["node"]


def test_nodes_keep_apart_what_one_node_must_not_mix(stacks: Make, key: str) -> None:
    stack = stacks(ENV, nodes=[gpu_node("a"), gpu_node("b", 2), gpu_node("cpu", 0)])
    stack.dispatcher("one")
    wait_for_nodes(stack, {"a": 4, "b": 2})
    shared = held(stack, key, SHARED)
    alone = held(stack, f"{key}-alone", ALONE)
    second = held(stack, f"{key}-2", SHARED)
    where = [node_of(stack, each) for each in (shared, second, alone)]
    assert where[0] == where[1] != where[2]
    _, out, _ = call(stack, "status")
    assert "t4  shared 2/6, exclusive 1/2" in out
    assert f"{where[2]}: exclusive 1/1" in out.partition("nodes  ")[2]
    waiting = stack.shop.add.apply_async((1, 1), queue=ALONE)
    stack.in_state(waiting.id, "waiting")

    # A cordoned node gets no further job, and the other one goes on.
    stack.cluster.faults.cordon(where[0])
    wait_for_nodes(stack, {where[2]: known(stack)[where[2]]})
    later = stack.shop.add.apply_async((2, 1), queue=SHARED)
    stack.go(f"{key}-alone")
    assert [alone.get(PATIENCE), waiting.get(PATIENCE), later.get(PATIENCE)] == [
        f"{key}-alone",
        2,
        3,
    ]
    assert {stack.known(each.id)["node"] for each in (waiting, later)} == {where[2]}

    # One that joins is used.
    stack.cluster.faults.cordon(where[2])
    wait_for_nodes(stack, {})
    third = stack.shop.add.apply_async((3, 1), queue=ALONE)
    stack.in_state(third.id, "waiting")
    stack.cluster.add_node(gpu_node("c", 3))
    assert third.get(2 * PATIENCE) == 4
    assert stack.known(third.id)["node"] == "c"
    stack.go(key)
    stack.go(f"{key}-2")
    assert [shared.get(PATIENCE), second.get(PATIENCE)] == [key, f"{key}-2"]
    stack.idle()


def test_a_silent_node_blocks_its_own_domain_alone(stacks: Make, key: str) -> None:
    stack = stacks(ENV, nodes=[gpu_node("a"), gpu_node("b")])
    one = stack.dispatcher("one")
    wait_for_nodes(stack, {"a": 4, "b": 4})
    result = held(stack, key, SHARED)
    lost = node_of(stack, result)
    stack.cluster.faults.kubelet_down(lost, evict_after=3600)
    alone = [stack.shop.add.apply_async((n, 1), queue=ALONE) for n in range(3)]
    assert [each.get(PATIENCE) for each in alone] == [1, 2, 3]
    until(lambda: stack.holders() == [result.id], PATIENCE, "its slot stays taken")
    wait_for_nodes(stack, {"ab".replace(lost, ""): 4})

    # The next leader knows as much.
    stack.dispatcher("two")
    one.kill()
    until(lambda: stack.reader.leaders() == ["two@test"], PATIENCE, "another one leads")
    stack.cluster.faults.kubelet_up(lost)
    wait_for_nodes(stack, {"a": 4, "b": 4})
    stack.go(key)
    assert result.get(PATIENCE) == key
    stack.idle()


def test_a_node_without_room_gives_the_slot_back(stacks: Make) -> None:
    """A pod of other people may have its cores."""
    stack = stacks(ENV, nodes=[gpu_node("a", cpu="100m"), gpu_node("b")])
    stack.dispatcher()
    wait_for_nodes(stack, {"a": 4, "b": 4})
    results = [stack.shop.add.apply_async((n, 1), queue=SHARED) for n in range(3)]
    assert [each.get(PATIENCE) for each in results] == [1, 2, 3]
    records = [stack.known(each.id) for each in results]
    assert {each["node"] for each in records} == {"b"}
    assert {each["attempt"] - each.get("spared", 0) for each in records} == {1}


def test_a_list_of_nodes_needs_no_right(stacks: Make) -> None:
    stack = stacks(ENV, nodes=[gpu_node("a"), gpu_node("b")])
    token = stack.cluster.user("dispatcher", rules(DISPATCHER))
    env = {"KUBECONFIG": str(stack.cluster.kubeconfig_for(token))}
    without = stack.dispatcher("one", env=env)
    result = stack.shop.add.apply_async((1, 1), queue=SHARED)
    stack.in_state(result.id, "waiting")
    until(lambda: "by a ClusterRole" in without.logs(), PATIENCE, "it says what to do")
    assert stack.known(result.id)["state"] == "waiting"
    assert known(stack) == {}
    without.kill()
    listed = stack.directory / "classes.toml"
    listed.write_text(
        '[classes.t4]\nshared_slots = 4\nexclusive_slots = 1\ndomain = "node"\nnodes = ["b"]\n'
    )
    stack.dispatcher("two", env=env | {"GPUQUEUE_CLASSES_FILE": str(listed)})
    assert result.get(PATIENCE) == 2
    assert stack.known(result.id)["node"] == "b"
