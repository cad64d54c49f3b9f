"""Whether a deleted pod was drained, as its node tells.

From documentation: `kubectl drain --disable-eviction` cordons a node and deletes its pods,
cluster-autoscaler and Karpenter taint a node before they remove it. From recordings: the pods.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gpuqueue.launchers.kubernetes.api.cluster_objects import Node
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Forbidden, Unreachable
from gpuqueue.launchers.kubernetes.api.objects import Job, Pod, Toleration
from gpuqueue.launchers.kubernetes.follow.closed_nodes import ClosedNodes
from gpuqueue.launchers.kubernetes.follow.pod_table import PodTable
from gpuqueue.model.reasons import EndReason
from tests.support.pod_objects import pod_events

R = EndReason
CORDONED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
GOES = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule", "value": "1784000000"}
GPU = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}


class Cluster:
    """It has one Job and one node, or says why it does not tell."""

    def __init__(self, node: Any, job: Any) -> None:
        self.node, self.job = node, job

    def get_job(self, name: str) -> Job | None:
        found: Job | None = _given(self.job)
        return found

    def get_node(self, name: str) -> Node | None:
        found: Node | None = _given(self.node)
        return found


def _given(answer: Any) -> Any:
    if isinstance(answer, ApiError):
        raise answer
    return answer


def node(ready: str = "True", gone: str | None = None, **spec: Any) -> Node:
    status = {"conditions": [{"type": "Ready", "status": ready}]}
    metadata = {"name": "node-a", "deletionTimestamp": gone}
    return msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, Node)


def job(**metadata: Any) -> Job:
    return msgspec.convert({"metadata": {"name": "j", **metadata}}, Job)


def deleted_pod(*tolerations: dict[str, str]) -> Pod:
    """The recorded pod that was deleted while it ran, as it is kept."""
    (events,) = pod_events("pod_deleted")
    pod = events[-1].object
    more = msgspec.convert(tolerations, tuple[Toleration, ...])
    spec = msgspec.structs.replace(pod.spec, tolerations=(*(pod.spec.tolerations or ()), *more))
    return PodTable().put(msgspec.structs.replace(pod, spec=spec), 0.0).pod


@pytest.mark.parametrize(
    ("found", "reason", "words"),
    [
        (node(), R.POD_DELETED, "its pod was deleted"),
        (node(taints=[GPU]), R.POD_DELETED, "its pod was deleted"),
        (node(unschedulable=True, taints=[CORDONED]), R.EVICTED, "takes none any more: cordoned"),
        (node(taints=[GPU, GOES]), R.EVICTED, "taint ToBeDeletedByClusterAutoscaler=1784000000"),
        (node(ready="Unknown"), R.EVICTED, "not ready"),
        (node(gone="2026-11-28T13:21:42Z"), R.EVICTED, "being deleted"),
        (None, R.NODE_LOST, "its node node-a is gone"),
        (Forbidden("cannot get nodes", status=403), R.POD_DELETED, "its pod was deleted"),
    ],
)
def test_a_pod_deleted_from_a_node_that_takes_none_was_drained(
    found: Any, reason: EndReason, words: str
) -> None:
    pod = deleted_pod({"key": "nvidia.com/gpu", "operator": "Exists"})
    end = PodTable().put(pod, 0.0).status.end
    assert end is not None and end.reason is R.POD_DELETED
    told = ClosedNodes(_any(Cluster(found, job()))).end_now("j", pod, end)
    assert (told.reason, told.evidence) == (reason, end.evidence)
    assert words in told.error


@pytest.mark.parametrize(
    "found", [None, job(deletionTimestamp="2026-11-28T13:21:42Z")], ids=["gone", "going"]
)
def test_a_pod_that_goes_with_its_job_was_not_drained(found: Any) -> None:
    pod = deleted_pod()
    end = PodTable().put(pod, 0.0).status.end
    assert end is not None
    cluster = Cluster(node(unschedulable=True), found)
    assert ClosedNodes(_any(cluster)).end_now("j", pod, end) is end


def test_a_node_that_cannot_be_read_now_is_asked_for_again() -> None:
    pod = deleted_pod()
    end = PodTable().put(pod, 0.0).status.end
    assert end is not None
    with pytest.raises(Unreachable):
        ClosedNodes(_any(Cluster(Unreachable("no answer"), job()))).end_now("j", pod, end)


def _any(double: Any) -> Any:
    return double
