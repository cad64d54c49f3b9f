"""Fields of a pod from class and settings: resources, nodes, tolerations, deadline. Pure."""

from __future__ import annotations

import math
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.record import Record
from gpuqueue.settings.kubernetes import ClusterSettings

#: Tolerates the taint that users of the GPU Operator set on GPU nodes.
_GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
#: Largest deadline of a pod that Kubernetes accepts, in seconds.
_LONGEST_DEADLINE = 2**31 - 1


def gpu_resources(gpu_class: GpuClass, settings: ClusterSettings) -> dict[str, Any]:
    """Return the resources of a container with one share of a GPU of the class."""
    host = host_resources(gpu_class.cpu, gpu_class.host_memory, settings)
    # Always 1: a slot is one share, and a time-sliced GPU rejects requests for more.
    return {
        "requests": host["requests"],
        "limits": {gpu_class.resource: "1", **host.get("limits", {})},
    }


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


def deadline(record: Record, overhead: float) -> dict[str, int]:
    """Return the deadline that Kubernetes enforces even if no dispatcher runs; {} without a limit.

    ``overhead``: seconds that the pod needs in addition to its time limit, before and after it.
    """
    limit = record.get("time_limit")
    if not limit:
        return {}
    return {"activeDeadlineSeconds": min(_LONGEST_DEADLINE, whole_seconds(limit + overhead))}


def scheduling(record: Record, gpu_class: GpuClass, settings: ClusterSettings) -> dict[str, Any]:
    """Return node selector, tolerations and the preference for nodes without earlier faults."""
    nodes = {**settings.node_selector, **gpu_class.node_selector}
    avoid = [
        {"key": "metadata.name", "operator": "NotIn", "values": [node]}  # takes one value
        for node in record.get("avoid") or ()
    ]
    # Only a preference: the faulty node may be the only node.
    away = {"weight": 100, "preference": {"matchFields": avoid}}
    return {
        **({"nodeSelector": nodes} if nodes else {}),
        "tolerations": tolerations(gpu_class),
        **(
            {
                "affinity": {
                    "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [away]}
                }
            }
            if avoid
            else {}
        ),
    }


def tolerations(gpu_class: GpuClass) -> list[dict[str, Any]]:
    """Return the tolerations of a class."""
    return [
        dict(_GPU_TOLERATION),
        *(dict(each) for each in gpu_class.tolerations if dict(each) != _GPU_TOLERATION),
    ]


def whole_seconds(seconds: float) -> int:
    """Return seconds as Kubernetes requires them: an integer of at least 1."""
    return max(1, math.ceil(seconds))
