"""Nodes that reject pods, and nodes that are silent: no job fails for them, and slots stay true."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from tests.doubles.kubernetes import Node
from tests.integration.kubernetes.test_cli import call
from tests.support.cluster_stack import ClusterStack
from tests.support.endpoints import free_port
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]
GPU, ALONE = "gpu.t4.shared", "gpu.t4.exclusive"
FULL = "Pod was rejected: Node didn't have enough resource: nvidia.com/gpu, requested: 1, used: 0"
OUT_OF_GPU = "OutOfnvidia.com/gpu"


def nodes(*names: str, gpus: int = 2) -> list[Node]:
    return [Node(name, resources={"nvidia.com/gpu": str(gpus)}) for name in names]


@pytest.fixture
def stacks(stacks: Callable[..., ClusterStack]) -> Callable[..., ClusterStack]:
    """Makes stacks of a test's own, with a cold pod for each job."""

    def make(env: dict[str, str] | None = None, **cluster: Any) -> ClusterStack:
        return stacks({"GPUQUEUE_WARM_SECONDS": "0"} | (env or {}), **cluster)

    return make


def wait_of(stack: ClusterStack, job_id: str) -> str:
    return (stack.record(job_id) or {}).get("wait", "")


# -- nodes that reject pods ------------------------------------------------------------------------


def test_no_job_fails_beside_a_node_that_rejects_pods(
    stacks: Callable[..., ClusterStack], key: str
) -> None:
    stack = stacks({"T4_SHARED_SLOTS": "4"}, nodes=nodes("node-a", "node-b"))
    stack.cluster.faults.reject_pods(FULL, OUT_OF_GPU, node="node-b")
    stack.dispatcher()
    held = [stack.shop.hold.apply_async((key,), queue=GPU) for _ in range(2)]
    for _ in held:
        stack.told(key)
    waiting = [stack.shop.add.apply_async((n, 1), queue=GPU) for n in range(12)]
    places = stack.client.hgetall

    def pause() -> float:
        text = places("gpuqueue:1:{t4}:places").get("node:node-b")
        return float(json.loads(text).get("pause", 0)) if text else 0

    until(lambda: pause() >= 8, PATIENCE, "it was tried three times")
    assert {stack.known(each.id)["state"] for each in waiting} <= {
        "waiting",
        "delayed",
        "launching",
    }
    until(
        lambda: any(wait_of(stack, each.id) == "NODE_SET_ASIDE" for each in waiting),
        PATIENCE,
        "it is told",
    )
    told = next(each for each in waiting if wait_of(stack, each.id) == "NODE_SET_ASIDE")
    _, out, _ = call(stack, "why", told.id)
    assert OUT_OF_GPU in out or "NODE_SET_ASIDE" not in out
    stack.cluster.faults.reject_pods(None)
    assert [each.get(PATIENCE) for each in waiting] == [n + 1 for n in range(12)]
    for _ in held:
        stack.go(key)
    assert [each.get(PATIENCE) for each in held] == [key, key]
    assert places("gpuqueue:1:{t4}:places") == {}


def test_jobs_wait_in_the_words_of_the_nodes_while_all_reject(
    stacks: Callable[..., ClusterStack],
) -> None:
    stack = stacks(nodes=nodes("node-a", "node-b"))
    stack.cluster.faults.reject_pods(FULL, OUT_OF_GPU)
    stack.dispatcher()
    results = [stack.shop.add.apply_async((n, 1), queue=GPU) for n in range(3)]
    places = "gpuqueue:1:{t4}:places"
    until(lambda: stack.client.hlen(places) == 2, PATIENCE, "both are set aside")
    until(
        lambda: all(stack.known(each.id).get("spared", 0) >= 3 for each in results),
        PATIENCE,
        "more attempts than a job has",
    )
    _, out, _ = call(stack, "why", results[0].id)
    assert OUT_OF_GPU in out
    stack.cluster.faults.reject_pods(None)
    assert [each.get(PATIENCE) for each in results] == [1, 2, 3]


# -- silent nodes ----------------------------------------------------------------------------------


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return str(answer.read().decode())


def test_a_silent_node_is_told_and_its_slot_is_free_at_an_operators_word(
    stacks: Callable[..., ClusterStack], key: str
) -> None:
    port = free_port()
    stack = stacks({"GPUQUEUE_METRICS_PORT": str(port)}, nodes=nodes("node-a", "node-b"))
    stack.dispatcher()
    result = stack.shop.hold.apply_async((key,), queue=GPU)
    stack.told(key)
    lost = stack.known(result.id)["node"]
    waiting = stack.shop.add.apply_async((1, 1), queue=ALONE)
    stack.in_state(waiting.id, "waiting")
    refused, _, text = call(stack, "confirm-gone", lost, "--yes")
    assert (refused, "is Ready" in text) == (1, True)
    stack.cluster.faults.kubelet_down(lost, evict_after=3600)
    until(lambda: wait_of(stack, result.id) == "NODE_SILENT", PATIENCE, "it is told")
    gauge = f'gpuqueue_silent_attempts{{gpu_class="t4",node="{lost}"}} 1.0'
    until(lambda: gauge in metrics(port), PATIENCE, "it is counted")
    _, out, _ = call(stack, "why", waiting.id)
    assert f"holds a slot on node {lost}: NODE_SILENT" in out and "confirm-gone" in out
    status, _, text = call(stack, "confirm-gone", lost)
    assert (status, stack.holders()) == (130, [result.id]), "no answer is no consent"
    status, out, _ = call(stack, "confirm-gone", lost, "--yes")
    assert (status, result.id in out) == (0, True)
    assert waiting.get(PATIENCE) == 2
    stack.told(key)
    record = stack.known(result.id)
    assert (record["attempt"], record["disruptions"]) == (2, 1)
    assert record["avoid"] == [lost]
    stack.go(key, 2)
    assert result.get(PATIENCE) == key
    until(lambda: gauge not in metrics(port), PATIENCE, "no slot is taken there")
    stack.cluster.faults.kubelet_up(lost)
    stack.idle()


def test_a_pod_that_a_dead_kubelet_never_accepted_is_lost_with_its_node(
    stacks: Callable[..., ClusterStack], key: str
) -> None:
    stack = stacks({"GPU_IMAGE_PULL_TIMEOUT": "4"}, nodes=nodes("node-a"))
    stack.cluster.faults.stall("nodes")
    stack.cluster.faults.kubelet_down("node-a", evict_after=3600)
    stack.dispatcher()
    result = stack.shop.tell_of.apply_async((key, "ran"), queue=GPU)
    until(lambda: wait_of(stack, result.id) == "NODE_SILENT", PATIENCE, "it is told")
    record = stack.known(result.id)
    assert (record["state"], record["node"]) == ("launching", "node-a")
    assert "has not accepted its pod" in record["detail"]
    stack.cluster.faults.resume("nodes")
    stack.cluster.faults.node_deleted("node-a")
    until(lambda: stack.known(result.id).get("disruptions") == 1, PATIENCE, "it is lost")
    assert stack.known(result.id)["state"] in ("delayed", "waiting", "launching")
    stack.cluster.faults.kubelet_up("node-a")
    assert result.get(PATIENCE) == "ran"
