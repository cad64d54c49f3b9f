"""Whether a pod fits on a node, and the obstacles in the words of the scheduler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal

from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.quantity import parse
from tests.doubles.kubernetes.objects.selectors import requirement

Amounts = dict[str, Decimal]

AFFINITY = "node(s) didn't match Pod's node affinity/selector"
UNSCHEDULABLE = "node(s) were unschedulable"


def requests(pod: Body) -> Amounts:
    """Return the requests of a pod: the sum of its containers, or its largest init container."""
    total: Amounts = {"pods": Decimal(1)}
    for container in pod["spec"]["containers"]:
        for name, amount in (container.get("resources", {}).get("requests") or {}).items():
            total[name] = total.get(name, Decimal(0)) + parse(amount)
    for container in pod["spec"].get("initContainers") or ():
        for name, amount in (container.get("resources", {}).get("requests") or {}).items():
            total[name] = max(total.get(name, Decimal(0)), parse(amount))
    return total


def obstacles(pod: Body, node: Body, wanted: Amounts, used: Mapping[str, Decimal]) -> list[str]:
    """Return why the pod does not fit; empty if it fits."""
    fixed = misfit(pod, node)
    return [fixed] if fixed else shortages(node, wanted, used)


def misfit(pod: Body, node: Body) -> str:
    """Return the obstacle that preemption cannot remove (labels, taints); empty if none."""
    spec = pod["spec"]
    if node["spec"].get("unschedulable"):
        return UNSCHEDULABLE
    for taint in node["spec"].get("taints") or ():
        if taint["effect"] in ("NoSchedule", "NoExecute") and not tolerated(spec, taint):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    return "" if matches(spec, node) else AFFINITY


def shortages(node: Body, wanted: Amounts, used: Mapping[str, Decimal]) -> list[str]:
    """Return the resources of which the node has too little left."""
    has = node["status"]["allocatable"]
    short = []
    for name, amount in wanted.items():
        if amount and used.get(name, Decimal(0)) + amount > parse(has.get(name, "0")):
            short.append("Too many pods" if name == "pods" else f"Insufficient {name}")
    return short


def exceeds(node: Body, wanted: Amounts) -> bool:
    """Whether the pod requests more than the empty node has."""
    has = node["status"]["allocatable"]
    return any(amount > parse(has.get(name, "0")) for name, amount in wanted.items())


def matches(spec: Body, node: Body) -> bool:
    """Whether a node has the labels and the name that a pod requires."""
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    return affinity is None or any(
        _term(term, node) for term in affinity.get("nodeSelectorTerms") or ()
    )


def preference(spec: Body, node: Body) -> int:
    """Return the sum of the weights of the preferences that a node meets."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    terms = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return sum(term["weight"] for term in terms if _term(term.get("preference") or {}, node))


def tolerated(spec: Body, taint: Body) -> bool:
    """Whether a pod tolerates a taint."""
    return any(tolerates(toleration, taint) for toleration in spec.get("tolerations") or ())


def tolerates(toleration: Body, taint: Body) -> bool:
    """Whether one toleration matches a taint."""
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", "")


def _term(term: Body, node: Body) -> bool:
    """Whether a node matches a term. An empty term matches no node."""
    labels, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    has = node["metadata"].get("labels") or {}
    name = {"metadata.name": node["metadata"]["name"]}
    if not labels and not fields:
        return False
    return all(requirement(has, need) for need in labels) and all(
        requirement(name, need) for need in fields
    )


def summary(nodes: int, reasons: Iterable[str]) -> str:
    """Return ``0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) …``"""
    counts = ", ".join(sorted(f"{count} {reason}" for reason, count in Counter(reasons).items()))
    return f"0/{nodes} nodes are available: {counts}."
