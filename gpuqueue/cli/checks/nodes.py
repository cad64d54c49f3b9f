"""Compares the shares that nodes advertise with the slots of a class. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from gpuqueue.classes.gpu_class import NODE, GpuClass
from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.launchers.kubernetes.api.cluster_objects import Node
from gpuqueue.launchers.kubernetes.status.nodes import (
    is_selected,
    more_nodes,
    refusal,
    shares,
    slots_of_nodes,
)

#: The most nodes that one line names.
_NAMED = 12


def slots(gpu_class: GpuClass, nodes: Sequence[Node], pod: Mapping[str, Any]) -> Check:
    """Check that the nodes open to its pods have room for as many jobs as the class has slots.

    ``pod`` is the spec of one of its pods.
    """
    selector, tolerations = pod.get("nodeSelector") or {}, pod.get("tolerations") or []
    resource, wanted = gpu_class.resource, max(gpu_class.shared_slots, gpu_class.exclusive_slots)
    chosen = [node for node in nodes if is_selected(node, selector) and shares(node, resource)]
    out = {node.metadata.name: why for node in chosen if (why := refusal(node, tolerations))}
    usable = [node for node in chosen if node.metadata.name not in out]
    if gpu_class.domain == NODE and usable and not gpu_class.nodes:
        by_node = slots_of_nodes(gpu_class, usable, tolerations)
        if by_node:
            each = [f"{name} ({max(found.values())} slots)" for name, found in by_node.items()]
            to_come = more_nodes(gpu_class, chosen)
            saw = f"{_some(each)}; {to_come} more may come" if to_come else _some(each)
            return Check("nodes", Level.OK, f"{gpu_class.name}: {saw}")
    if gpu_class.scale_to and not chosen:
        saw = (
            f"{gpu_class.name}: no node; {gpu_class.scale_to} may come, if an autoscaler adds them"
        )
        return Check("nodes", Level.OK, saw)
    gpus = gpu_class.gpus
    if not gpus:
        return Check("nodes", Level.OK, f"{gpu_class.name}: not counted, its pods claim their GPUs")
    total = sum(shares(node, resource) for node in usable)
    jobs = sum(shares(node, resource) // gpus for node in usable)  # a job is on one node
    where = f" on nodes with {_labels(selector)}" if selector else ""
    on = (
        _some([f"{node.metadata.name} ({_made_of(node, resource)})" for node in usable])
        or "no node"
    )
    saw = f"{gpu_class.name}: {wanted} slots, {total} of {resource} on {on}"
    if out:
        saw += f"; not counted: {_some([f'{name} ({why})' for name, why in out.items()])}"
    if not total and out:
        return Check(
            "nodes",
            Level.FAIL,
            saw,
            "repair or uncordon a node, or add a toleration for its taint to the class",
        )
    if not total:
        return Check(
            "nodes",
            Level.FAIL,
            saw,
            f"advertise {resource}{where}: install the device plugin, set up time-slicing or MIG",
        )
    if jobs < wanted:
        more = "add replicas" if gpus == 1 else f"add nodes with {gpus} GPUs"
        return Check(
            "nodes",
            Level.FAIL if not jobs else Level.WARN,
            saw if gpus == 1 else f"{saw}: room for {jobs} jobs of {gpus} GPUs",
            f"lower the class to {jobs} slots, or {more}; the rest waits as UNSCHEDULABLE",
        )
    return Check("nodes", Level.OK, saw)


def overlaps(
    classes: Mapping[str, GpuClass], nodes: Sequence[Node], pods: Mapping[str, Mapping[str, Any]]
) -> Iterator[Check]:
    """Yield a warning for two classes whose jobs may meet on a GPU although those of one do not
    share it: slots and anti-affinity are those of one class. ``pods``: class → the spec of a pod.
    """
    for one, other in combinations(classes.values(), 2):
        may_meet = (one.shared_slots and other.exclusive_slots) or (
            one.exclusive_slots and other.shared_slots
        )
        if not (may_meet and one.has_gpu and one.resource == other.resource):
            continue
        on = [set(_open_to(each, nodes, pods[each.name])) for each in (one, other)]
        if both := sorted(set.intersection(*on)):
            yield Check(
                "nodes",
                Level.WARN,
                f"{one.name} and {other.name}: both run on {_some(both)} with {one.resource}; an"
                " exclusive job of one may share its GPU with jobs of the other",
                f"give {one.name} and {other.name} different nodes by `node_selector`, or make"
                " them one class",
            )


def _open_to(gpu_class: GpuClass, nodes: Sequence[Node], pod: Mapping[str, Any]) -> Iterator[str]:
    """Yield the nodes that a pod of a class may run on, now or once they are ready; none if the
    template of the pod has rules for nodes that are not known here.
    """
    if (pod.get("affinity") or {}).get("nodeAffinity"):
        return
    selector, tolerations = pod.get("nodeSelector") or {}, pod.get("tolerations") or []
    for node in nodes:
        name = node.metadata.name
        listed = not gpu_class.nodes or name in gpu_class.nodes
        kept_off = refusal(node, tolerations).startswith("taint ")
        fits = is_selected(node, selector) and shares(node, gpu_class.resource)
        if listed and fits and not kept_off:
            yield name


def _made_of(node: Node, resource: str) -> str:
    """Return a node's shares as text: GPUs × replicas where GPU feature discovery labelled them."""
    labels, total = node.metadata.labels or {}, shares(node, resource)
    count, replicas = labels.get(f"{resource}.count", ""), labels.get(f"{resource}.replicas", "")
    if (
        count.isdecimal()
        and replicas.isdecimal()
        and int(replicas) > 1
        and int(count) * int(replicas) == total
    ):
        return f"{count} × {replicas}"
    return str(total)


def _some(names: Sequence[str]) -> str:
    """Join the first names and count the rest."""
    return ", ".join(names[:_NAMED]) + (
        f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    )


def _labels(selector: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in selector.items())
