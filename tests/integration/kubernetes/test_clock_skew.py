"""The clock of a cluster may be off by minutes against that of Redis: no wait ends earlier or later
for it, and the word of an operator counts as it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery.result import AsyncResult

from gpuqueue.launchers.kubernetes.manifest.names import parse_instance
from gpuqueue.store import places as stored
from tests.doubles.kubernetes import Node
from tests.integration.kubernetes.test_cli import call
from tests.support.cluster_stack import ClusterStack
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]
GPU = "gpu.t4.shared"


@pytest.fixture
def stack(ahead: int, stacks: Callable[..., ClusterStack]) -> ClusterStack:
    nodes = [Node(name, resources={"nvidia.com/gpu": "2"}) for name in ("node-a", "node-b")]
    made = stacks({"GPUQUEUE_WARM_SECONDS": "0", "GPU_JOB_TTL_SECONDS": "2"}, nodes=nodes)
    made.dispatcher()
    return made


def holds(stack: ClusterStack) -> dict[str, Any]:
    return {each.kind: each for each in stored.set_aside(stored.of(stack.client, "t4"))}


def job_of(stack: ClusterStack, result: AsyncResult) -> str:
    instance = parse_instance(stack.known(result.id)["instance"])
    assert instance is not None
    return instance.job


def test_a_wait_within_its_limit_holds_nothing(stack: ClusterStack) -> None:
    """A pod that comes late, and one whose image takes a while."""
    stack.cluster.faults.late_pods(1.5)
    stack.cluster.faults.slow_pulls(1.5)
    results = [stack.shop.add.apply_async((n, 1), queue=GPU) for n in range(2)]
    assert [each.get(PATIENCE) for each in results] == [1, 2]
    records = [stack.in_state(each.id, "ended") for each in results]
    assert [(each["attempt"], each.get("spared", 0)) for each in records] == [(1, 0)] * 2


def test_a_wait_beyond_its_limit_holds_the_class(stack: ClusterStack, key: str) -> None:
    for node in ("node-a", "node-b"):
        stack.cluster.faults.cordon(node)
    result = stack.shop.add.apply_async((1, 1), queue=GPU)
    until(lambda: "scheduling" in holds(stack), PATIENCE, "no node takes the pod")
    for node in ("node-a", "node-b"):
        stack.cluster.faults.cordon(node, on=False)
    assert result.get(PATIENCE) == 2


def test_an_ended_job_stays_for_its_time_and_goes(stack: ClusterStack) -> None:
    result = stack.shop.add.apply_async((1, 1), queue=GPU)
    assert result.get(PATIENCE) == 2
    name = job_of(stack, result)
    until(lambda: stack.cluster.job(name) is None, PATIENCE, "its Job is deleted")


def test_the_word_of_an_operator_counts(stack: ClusterStack, key: str) -> None:
    result = stack.shop.hold.apply_async((key,), queue=GPU)
    stack.told(key)
    lost = stack.known(result.id)["node"]
    stack.cluster.faults.kubelet_down(lost, evict_after=3600)
    until(lambda: stack.known(result.id).get("wait") == "NODE_SILENT", PATIENCE, "it is told")
    status, _, text = call(stack, "confirm-gone", lost, "--yes")
    assert status == 0, text
    stack.told(key)  # it runs on the other node
    stack.go(key, 2)
    assert result.get(PATIENCE) == key
