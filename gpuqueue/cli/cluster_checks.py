"""What ``gpuqueue doctor`` looks at in a Kubernetes cluster: access, rights, the Secret, nodes, and whether it takes our Jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuqueue.classes import GpuClass
from gpuqueue.cli.checks import Check, Level
from gpuqueue.cluster_settings import ClusterSettings, load_cluster
from gpuqueue.errors import GpuQueueError, SettingsError
from gpuqueue.launchers.kubernetes.access import DISPATCHER
from gpuqueue.launchers.kubernetes.answers import Node
from gpuqueue.launchers.kubernetes.api import Api
from gpuqueue.launchers.kubernetes.assemble import check, context
from gpuqueue.launchers.kubernetes.errors import ApiError, Forbidden
from gpuqueue.launchers.kubernetes.requests import Requests
from gpuqueue.manifest import ManifestContext
from gpuqueue.settings import Settings

#: The oldest Kubernetes whose features the Jobs use, and the newest that was recorded.
LEAST, NEWEST = (1, 31), (1, 36)
_NEEDED_KEY = "CELERY_BROKER_URL"


def cluster(settings: Settings, classes: Mapping[str, GpuClass]) -> Iterator[Check]:
    """Make all checks of the cluster that can be made."""
    try:
        chosen = load_cluster()
        api = Api(chosen)
        common = context(settings, chosen, api)
    except SettingsError as exc:
        problem, _, fix = str(exc).rpartition("; ")
        yield Check("cluster", Level.FAIL, problem or fix, fix if problem else "")
        return
    try:
        version = api.server_version()
    except ApiError as exc:
        yield Check("cluster", Level.FAIL, f"{api.server}: {exc}", "start it, or correct KUBECONFIG")
        return
    yield _version(api.server, version)
    yield Check("owner", Level.OK, f"{common.owner} in namespace {api.namespace}")
    yield from _namespace(api)
    yield from _rights(api)
    yield from _secret(api, chosen.secret_name)
    yield from _jobs(api, classes, chosen, common)
    yield from _nodes(api, classes, chosen)


def _version(server: str, version: str) -> Check:
    found = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in version.lstrip("v").split(".")[:2])
    saw = f"{server}, Kubernetes {version}"
    if found < LEAST:
        return Check("cluster", Level.FAIL, saw, f"use Kubernetes {LEAST[0]}.{LEAST[1]} or newer")
    newer = found > NEWEST
    fix = f"newer than any that was tested ({NEWEST[0]}.{NEWEST[1]}): try it before you rely on it" if newer else ""
    return Check("cluster", Level.WARN if newer else Level.OK, saw, fix)


def _namespace(api: Requests) -> Iterator[Check]:
    try:
        found = api.get_namespace(api.namespace)
    except Forbidden:
        yield Check("namespace", Level.OK, f"{api.namespace}: not looked at, `get namespaces` is not allowed")
        return
    except ApiError as exc:
        yield Check("namespace", Level.WARN, f"{api.namespace}: {exc}", "run the doctor again")
        return
    if found is None:
        fix = f"kubectl create namespace {api.namespace}, or set GPU_JOB_NAMESPACE"
        yield Check("namespace", Level.FAIL, f"{api.namespace} does not exist", fix)
    else:
        yield Check("namespace", Level.OK, api.namespace)


def _rights(api: Requests) -> Iterator[Check]:
    for right in DISPATCHER:
        try:
            allowed, reason = api.can(right.verb, right.resource, right.group, right.subresource)
        except ApiError as exc:
            yield Check("rights", Level.WARN, f"{right}: {exc}", "ask with `kubectl auth can-i`")
            return
        fix = "" if allowed else f"allow it by a Role in namespace {api.namespace}"
        saw = str(right) if allowed else f"may not {right}" + (f" ({reason})" if reason else "")
        yield Check("rights", Level.OK if allowed else Level.FAIL, saw, fix)


def _secret(api: Requests, name: str) -> Iterator[Check]:
    try:
        keys = api.get_secret_keys(name)
    except Forbidden:
        yield Check("secret", Level.WARN, f"{name}: not looked at", "run the doctor as somebody who may `get secrets`")
        return
    except ApiError as exc:
        yield Check("secret", Level.WARN, f"{name}: {exc}", "run the doctor again")
        return
    fix = f"kubectl -n {api.namespace} create secret generic {name} --from-literal={_NEEDED_KEY}=redis://…"
    if keys is None:
        yield Check("secret", Level.FAIL, f"{name} does not exist", fix)
    elif _NEEDED_KEY not in keys:
        yield Check("secret", Level.FAIL, f"{name} has no {_NEEDED_KEY}; it has {', '.join(sorted(keys)) or 'nothing'}", fix)
    else:
        yield Check("secret", Level.OK, f"{name} has {', '.join(sorted(keys))}")


def _jobs(api: Requests, classes: Mapping[str, GpuClass], chosen: ClusterSettings, common: ManifestContext) -> Iterator[Check]:
    for name, gpu_class in classes.items():
        try:
            check(api, {name: gpu_class}, chosen, common)
        except GpuQueueError as exc:
            problem, _, fix = str(exc).rpartition("; ")
            yield Check("jobs", Level.FAIL, problem or fix, fix if problem else "correct what the server names")
        else:
            image = gpu_class.image or chosen.executor_image
            yield Check("jobs", Level.OK, f"{name}: the server would take its Jobs (image {image})")


def _nodes(api: Requests, classes: Mapping[str, GpuClass], chosen: ClusterSettings) -> Iterator[Check]:
    try:
        nodes = api.list_nodes()
    except Forbidden:
        fix = "run the doctor as somebody who may `list nodes`; dispatchers need not"
        yield Check("nodes", Level.WARN, "not looked at", fix)
        return
    except ApiError as exc:
        yield Check("nodes", Level.WARN, str(exc), "run the doctor again")
        return
    for gpu_class in classes.values():
        yield _slots(gpu_class, nodes, {**chosen.node_selector, **gpu_class.node_selector})


def _slots(gpu_class: GpuClass, nodes: Sequence[Node], selector: Mapping[str, str]) -> Check:
    """Whether the nodes that its Jobs may go to have as many shares as it has slots."""
    resource, slots = gpu_class.resource, max(gpu_class.shared_slots, gpu_class.exclusive_slots)
    chosen = [node for node in nodes if _selected(node, selector) and resource in node.status.allocatable]
    usable = [node for node in chosen if node.ready and not node.spec.unschedulable and _tolerated(node, gpu_class)]
    shares = sum(int(node.status.allocatable[resource]) for node in usable)
    where = f" on nodes with {_labels(selector)}" if selector else ""
    saw = f"{gpu_class.name}: {slots} slots, {shares} of {resource} on {', '.join(map(_name, usable)) or 'no node'}"
    if out := [_name(node) for node in chosen if node not in usable]:
        saw += f" (not ready, cordoned or tainted: {', '.join(out)})"
    if not shares:
        return Check("nodes", Level.FAIL, saw, f"have {resource} advertised{where}: device plugin, time-slicing or MIG")
    if shares < slots:
        return Check(
            "nodes", Level.WARN, saw, f"give the class {shares} slots, or more replicas: the rest waits as UNSCHEDULABLE"
        )
    return Check("nodes", Level.OK, saw)


def _selected(node: Node, selector: Mapping[str, str]) -> bool:
    labels = node.metadata.labels or {}
    return all(labels.get(key) == value for key, value in selector.items())


def _tolerated(node: Node, gpu_class: GpuClass) -> bool:
    tolerations: list[Mapping[str, Any]] = [{"key": "nvidia.com/gpu", "operator": "Exists"}, *gpu_class.tolerations]
    return all(
        taint.effect == "PreferNoSchedule" or any(_tolerates(each, taint.key, taint.value, taint.effect) for each in tolerations)
        for taint in node.spec.taints
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


def _name(node: Node) -> str:
    return node.metadata.name
