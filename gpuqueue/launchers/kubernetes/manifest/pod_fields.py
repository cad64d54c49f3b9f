"""Fields of a pod from class and settings: resources, nodes, tolerations, deadline. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.record import Record
from gpuqueue.model.unbound import is_unbound
from gpuqueue.settings.kubernetes import ClusterSettings

#: Tolerates the taint that users of the GPU Operator set on GPU nodes.
_GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
#: Largest deadline of a pod that Kubernetes accepts, in seconds.
_LONGEST_DEADLINE = 2**31 - 1


def gpu_resources(record: Record, gpu_class: GpuClass, settings: ClusterSettings) -> dict[str, Any]:
    """Return the resources of a container with one share of a GPU of the class, or its GPUs: those
    of a job of several GPUs, or as many as the class gives each job.
    """
    host = host_resources(gpu_class.cpu, gpu_class.host_memory, settings)
    # Of a shared GPU always 1: a slot is a share, and a time-sliced GPU rejects requests for more.
    number = gpu_class.gpus * record.get("gpus", 1)
    gpus = {gpu_class.resource: str(number)} if number else {}
    limits = {**gpus, **host.get("limits", {})}
    return {"requests": host["requests"], **({"limits": limits} if limits else {})}


def host_resources(
    cpu: str | None, memory: str | None, settings: ClusterSettings
) -> dict[str, Any]:
    """Return the resources of a container without a GPU. None: the default of the settings."""
    # No CPU limit: it would slow a job down while cores are idle.
    limit = memory or settings.memory_limit
    return {
        "requests": {
            "cpu": cpu or settings.cpu_request,
            "memory": memory or settings.memory_request,
        },
        **({"limits": {"memory": limit}} if limit else {}),
    }


def longest_run(record: Record, gpu_class: GpuClass) -> float | None:
    """Return for how many seconds a job may run, with any limit of its task; None: no limit.

    A message overrides its task, but a task overrides the default of the class.
    """
    limit = record.get("time_limit")
    return gpu_class.max_time_limit if limit == gpu_class.time_limit else limit


def deadline(limit: float | None, overhead: float) -> dict[str, int]:
    """Return the deadline that Kubernetes enforces even if no dispatcher runs; {} without a limit.

    ``overhead``: seconds that the pod needs in addition to its time limit, before and after it.
    """
    if not limit:
        return {}
    return {"activeDeadlineSeconds": min(_LONGEST_DEADLINE, whole_seconds(limit + overhead))}


def scheduling(
    record: Record,
    gpu_class: GpuClass,
    settings: ClusterSettings,
    apart: Iterable[Mapping[str, Any]] = (),
    together: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return node selector, tolerations, and on which nodes the pod may and should run.

    ``apart`` selects the pods that must not be on its node, ``together`` those on whose node it
    must be, if there are any.
    """
    nodes = {**settings.node_selector, **gpu_class.node_selector}
    affinity: dict[str, Any] = {}
    if of_nodes := node_affinity(record):
        affinity["nodeAffinity"] = of_nodes
    for kind, selectors in (("podAntiAffinity", apart), ("podAffinity", together)):
        terms = [
            {"labelSelector": each, "topologyKey": "kubernetes.io/hostname"} for each in selectors
        ]
        if terms:
            affinity[kind] = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    return {
        **({"nodeSelector": nodes} if nodes else {}),
        "tolerations": tolerations(gpu_class),
        **({"affinity": affinity} if affinity else {}),
    }


def node_affinity(record: Record) -> dict[str, Any]:
    """Return the nodes that a pod must avoid, since they are set aside, and those that it should
    avoid or try; {} if all are alike. The pod of an attempt whose domain is a node runs there or
    nowhere.
    """
    near, away = record.get("near", ""), record.get("away") or []
    domain = record.get("domain")
    if domain and not is_unbound(domain):
        only = [
            *_names("In", [domain]),
            *_names("NotIn", [each for each in away if each != domain]),
        ]
        required = {"nodeSelectorTerms": [{"matchFields": only}]}
        return {"requiredDuringSchedulingIgnoredDuringExecution": required}
    # Where this job has failed, only a preference: the node may be the only one.
    avoid = [node for node in record.get("avoid") or () if node not in (near, *away)]
    preferred = []
    if avoid:
        preferred.append({"weight": 100, "preference": {"matchFields": _names("NotIn", avoid)}})
    if near:
        preferred.append({"weight": 100, "preference": {"matchFields": _names("In", [near])}})
    required = {"nodeSelectorTerms": [{"matchFields": _names("NotIn", away)}]}
    return {
        **({"requiredDuringSchedulingIgnoredDuringExecution": required} if away else {}),
        **({"preferredDuringSchedulingIgnoredDuringExecution": preferred} if preferred else {}),
    }


def prefers(node: str | None) -> dict[str, Any]:
    """Return the preference for one node; {} for none."""
    if not node:
        return {}
    preferred = [{"weight": 100, "preference": {"matchFields": _names("In", [node])}}]
    return {
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    }


def _names(operator: str, nodes: list[str]) -> list[dict[str, Any]]:
    # A requirement takes one name.
    return [{"key": "metadata.name", "operator": operator, "values": [node]} for node in nodes]


def tolerations(gpu_class: GpuClass) -> list[dict[str, Any]]:
    """Return the tolerations of a class."""
    return [
        dict(_GPU_TOLERATION),
        *(dict(each) for each in gpu_class.tolerations if dict(each) != _GPU_TOLERATION),
    ]


def whole_seconds(seconds: float) -> int:
    """Return seconds as Kubernetes requires them: an integer of at least 1."""
    return max(1, math.ceil(seconds))
