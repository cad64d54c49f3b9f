"""Compares the shares that nodes advertise with the slots of a class. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.launchers.kubernetes.api.cluster_objects import Node
from gpuqueue.model.kube_syntax import amount

#: The most nodes that one line names.
_NAMED = 12


def slots(gpu_class: GpuClass, nodes: Sequence[Node], pod: Mapping[str, Any]) -> Check:
    """Check that the nodes open to its pods have as many shares as the class has slots.

    ``pod`` is the spec of one of its pods.
    """
    selector, tolerations = pod.get("nodeSelector") or {}, pod.get("tolerations") or []
    resource, wanted = gpu_class.resource, max(gpu_class.shared_slots, gpu_class.exclusive_slots)
    chosen = [node for node in nodes if _selected(node, selector) and _shares(node, resource)]
    out = {node.metadata.name: why for node in chosen if (why := _out(node, tolerations))}
    usable = [node for node in chosen if node.metadata.name not in out]
    shares = sum(_shares(node, resource) for node in usable)
    where = f" on nodes with {_labels(selector)}" if selector else ""
    on = (
        _some([f"{node.metadata.name} ({_made_of(node, resource)})" for node in usable])
        or "no node"
    )
    saw = f"{gpu_class.name}: {wanted} slots, {shares} of {resource} on {on}"
    if out:
        saw += f"; not counted: {_some([f'{name} ({why})' for name, why in out.items()])}"
    if not shares and out:
        return Check(
            "nodes",
            Level.FAIL,
            saw,
            "repair or uncordon a node, or add a toleration for its taint to the class",
        )
    if not shares:
        return Check(
            "nodes",
            Level.FAIL,
            saw,
            f"advertise {resource}{where}: install the device plugin, set up time-slicing or MIG",
        )
    if shares < wanted:
        return Check(
            "nodes",
            Level.WARN,
            saw,
            f"lower the class to {shares} slots, or add replicas; the rest waits as UNSCHEDULABLE",
        )
    return Check("nodes", Level.OK, saw)


def _selected(node: Node, selector: Mapping[str, str]) -> bool:
    labels = node.metadata.labels or {}
    return all(labels.get(key) == value for key, value in selector.items())


def _shares(node: Node, resource: str) -> int:
    return int(amount(node.status.allocatable.get(resource)) or 0)


def _made_of(node: Node, resource: str) -> str:
    """Return a node's shares as text: GPUs × replicas where GPU feature discovery labelled them."""
    labels, shares = node.metadata.labels or {}, _shares(node, resource)
    count, replicas = labels.get(f"{resource}.count", ""), labels.get(f"{resource}.replicas", "")
    if (
        count.isdecimal()
        and replicas.isdecimal()
        and int(replicas) > 1
        and int(count) * int(replicas) == shares
    ):
        return f"{count} × {replicas}"
    return str(shares)


def _out(node: Node, tolerations: Sequence[Mapping[str, Any]]) -> str:
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


def _some(names: Sequence[str]) -> str:
    """Join the first names and count the rest."""
    return ", ".join(names[:_NAMED]) + (
        f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    )


def _tolerates(toleration: Mapping[str, Any], key: str, value: str, effect: str) -> bool:
    exists = toleration.get("operator") == "Exists"
    if toleration.get("effect") not in (None, "", effect):
        return False
    return (exists and toleration.get("key") in (None, "", key)) or (
        toleration.get("key") == key and (exists or toleration.get("value", "") == value)
    )


def _labels(selector: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in selector.items())
