"""Which nodes take the pods of a class, and for how many jobs each has shares. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.api.cluster_objects import Node
from gpuqueue.model.kube_syntax import amount


def is_selected(node: Node, selector: Mapping[str, str]) -> bool:
    """Whether a node has the labels of a node selector."""
    labels = node.metadata.labels or {}
    return all(labels.get(key) == value for key, value in selector.items())


def shares(node: Node, resource: str) -> int:
    """Return how many of a resource a node advertises."""
    return int(amount(node.status.allocatable.get(resource)) or 0)


def refusal(node: Node, tolerations: Sequence[Mapping[str, Any]]) -> str:
    """Return why a node takes no pod of the class now; "" if it does."""
    if not node.ready:
        return "not ready"
    if node.spec.unschedulable:
        return "cordoned"
    for taint in node.spec.taints:
        kept_off = taint.effect != "PreferNoSchedule"
        if kept_off and not any(
            _tolerates(each, taint.key, taint.value, taint.effect) for each in tolerations
        ):
            return f"taint {taint.key}{'=' if taint.value else ''}{taint.value}:{taint.effect}"
    return ""


def slots_of_nodes(
    gpu_class: GpuClass, nodes: Iterable[Node], tolerations: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, int]]:
    """Return the slots of the nodes that take pods of a class: name → isolation → slots. ``nodes``
    have the labels of its pods. A node has no more slots than it advertises shares for.
    """
    return {
        node.metadata.name: slots
        for node in nodes
        if not refusal(node, tolerations) and any((slots := slots_on(gpu_class, node)).values())
    }


def slots_on(gpu_class: GpuClass, node: Node) -> dict[str, int]:
    """Return the slots of a node by isolation, whether it takes pods or not."""
    return slots_of(gpu_class, _jobs(gpu_class, node))


def more_nodes(gpu_class: GpuClass, nodes: Iterable[Node]) -> int:
    """Return how many nodes an autoscaler may add to those of a class, which have the labels of its
    pods. One that takes no pods now is there, too.
    """
    existing = sum(any(slots_on(gpu_class, node).values()) for node in nodes)
    return max(0, (gpu_class.scale_to or 0) - existing)


def slots_of(gpu_class: GpuClass, jobs: int | None = None) -> dict[str, int]:
    """Return the slots of one node by isolation. ``jobs``: for how many it has shares."""
    own = gpu_class.slots_of_domain
    return own if jobs is None else {name: min(slots, jobs) for name, slots in own.items()}


def _jobs(gpu_class: GpuClass, node: Node) -> int | None:
    # With 0 GPUs, claims of the pod bring the GPU: a node advertises nothing.
    return shares(node, gpu_class.resource) // gpu_class.gpus if gpu_class.gpus else None


def _tolerates(toleration: Mapping[str, Any], key: str, value: str, effect: str) -> bool:
    exists = toleration.get("operator") == "Exists"
    if toleration.get("effect") not in (None, "", effect):
        return False
    return (exists and toleration.get("key") in (None, "", key)) or (
        toleration.get("key") == key and (exists or toleration.get("value", "") == value)
    )
