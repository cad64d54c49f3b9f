"""The Kubernetes Job of an attempt, of a finish, and of a container job. Pure: the same arguments
give the same object.

One Job runs one pod once: Celery owns retries, and a further attempt is a Job of its own. Every pod
is fit for Pod Security "restricted".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.launchers.kubernetes.api.objects import CONTAINER
from gpuqueue.launchers.kubernetes.manifest.environment import (
    VISIBLE_GPUS,
    executor_variables,
    literal,
    variables,
)
from gpuqueue.launchers.kubernetes.manifest.images import image_of
from gpuqueue.launchers.kubernetes.manifest.names import (
    ATTEMPT_ROLE,
    CONTAINER_ROLE,
    FINISHER_ROLE,
    annotations_of,
    finisher_name,
    instance_of,
    job_name,
    labels,
)
from gpuqueue.launchers.kubernetes.manifest.pod_template import Overlay, apply
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.record import Record
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.store.keys import VERSION

Manifest = dict[str, Any]

#: What the taint of GPU nodes asks for, as the GPU Operator's users set it.
_GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
#: The largest number of seconds that Kubernetes takes for a pod's deadline.
_LONGEST_DEADLINE = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ManifestContext:
    """What all Jobs of one dispatcher share, beside the cluster's settings. Times are seconds."""

    namespace: str
    owner: str
    app: str | None = None
    """GPUQUEUE_APP; None: the image sets it."""
    log_level: str = "INFO"
    tombstone_seconds: float = 86_400
    grace_seconds: float = 10
    start_timeout: float = 120
    overlay: Overlay | None = None


def attempt_manifest(
    record: Record, gpu_class: GpuClass, settings: ClusterSettings, common: ManifestContext
) -> Manifest:
    """Return the Job of an attempt: the executor in the job's image, with one share of the class's
    GPU.

    Raises :class:`InvalidJob` when there is no image for it or none that it may have,
    :class:`SettingsError` when the pod template contradicts the class.
    """
    name = job_name(common.owner, record)
    container = {
        "image": image_of(record.get("image"), gpu_class, settings),
        "command": settings.executor_words,
        "env": executor_variables(
            record, instance_of(common.namespace, name), _told(common), settings.secret_name
        ),
        "resources": _gpu_resources(gpu_class, settings),
    }
    pod = {**_deadline(record, settings, common), **_placement(record, gpu_class, settings)}
    return _job(name, ATTEMPT_ROLE, record, container, pod, settings, common)


def container_manifest(
    record: Record, gpu_class: GpuClass, settings: ClusterSettings, common: ManifestContext
) -> Manifest:
    """Return the Job of a container job: its own image, command and environment, and nothing that
    is the application's.

    It gets neither the Secret nor its token: the annotation alone holds that, for re-adopting.
    Raises as :func:`attempt_manifest`.
    """
    asked: object = record.get("container")
    if not isinstance(asked, Mapping):  # adopted: an annotation holds no more than that it is one
        raise InvalidJob.field(
            "container", asked, "is not known any more, since Redis lost it", "send the job again"
        )
    env = asked.get("env") or {}
    if VISIBLE_GPUS in env:
        raise InvalidJob.field(
            f"env.{VISIBLE_GPUS}", env[VISIBLE_GPUS], "opens other jobs' GPUs", "leave it out"
        )
    words = {
        name: [literal(word) for word in asked[name]]
        for name in ("command", "args")
        if asked.get(name)
    }
    container = {
        "image": image_of(record.get("image"), gpu_class, settings),
        **words,
        **({"workingDir": asked["working_dir"]} if asked.get("working_dir") else {}),
        "env": variables({**env, "GPUQUEUE_JOB_ID": record["id"]}),
        "resources": _gpu_resources(gpu_class, settings),
    }
    pod = {**_deadline(record, settings, common), **_placement(record, gpu_class, settings)}
    bare = replace(common, overlay=common.overlay and common.overlay.for_foreign_image())
    return _job(
        job_name(common.owner, record), CONTAINER_ROLE, record, container, pod, settings, bare
    )


def finisher_manifest(
    record: Record,
    finisher: str,
    timeout: float,
    gpu_class: GpuClass,
    settings: ClusterSettings,
    common: ManifestContext,
) -> Manifest:
    """Return the Job that finishes a job in its application's code, without a GPU, within
    ``timeout`` seconds of its creation.

    It may run on any node, also on those of GPUs, where its image lies already. Raises as
    :func:`attempt_manifest`.
    """
    name = finisher_name(common.owner, record, finisher)
    told = {**_told(common), "GPUQUEUE_FINISHER": finisher, VISIBLE_GPUS: "void"}
    container = {
        # The image of a container job is not the application's: it is nobody to give the Secret to.
        "image": image_of(
            None if record["task"] == CONTAINER_TASK else record.get("image"), gpu_class, settings
        ),
        "command": settings.executor_words,
        "env": executor_variables(
            record, instance_of(common.namespace, name), told, settings.secret_name
        ),
        "resources": _host_resources(None, None, settings),
    }
    pod = {"tolerations": _tolerations(gpu_class)}
    made = _job(name, FINISHER_ROLE, record, container, pod, settings, common)
    made["spec"]["activeDeadlineSeconds"] = _whole(timeout)
    return made


def _job(
    name: str,
    role: str,
    record: Record,
    container: Mapping[str, Any],
    pod: Mapping[str, Any],
    settings: ClusterSettings,
    common: ManifestContext,
) -> Manifest:
    tags, notes = labels(common.owner, role, record), annotations_of(common.owner, record)
    template = {
        "metadata": {"labels": tags, "annotations": notes},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": _whole(common.grace_seconds),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": settings.run_as_user,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **pod,
            "containers": [
                {
                    "name": CONTAINER,
                    **(
                        {"imagePullPolicy": settings.image_pull_policy}
                        if settings.image_pull_policy
                        else {}
                    ),
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    **container,
                }
            ],
        },
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": common.namespace,
            "labels": dict(tags),
            "annotations": dict(notes),
        },
        "spec": {
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": settings.job_ttl_seconds,
            "template": apply(common.overlay, template) if common.overlay else template,
        },
    }


def _told(common: ManifestContext) -> dict[str, str]:
    return {
        **({"GPUQUEUE_APP": common.app} if common.app else {}),
        "GPUQUEUE_LAYOUT": str(VERSION),
        "GPUQUEUE_LOG_LEVEL": common.log_level,
        "GPUQUEUE_TOMBSTONE_SECONDS": str(common.tombstone_seconds),
        "PYTHONUNBUFFERED": "1",
    }


def _gpu_resources(gpu_class: GpuClass, settings: ClusterSettings) -> dict[str, Any]:
    host = _host_resources(gpu_class.cpu, gpu_class.host_memory, settings)
    # Always one: a sliced GPU refuses requests for more, and a slot is one share.
    return {
        "requests": host["requests"],
        "limits": {gpu_class.resource: "1", **host.get("limits", {})},
    }


def _host_resources(
    cpu: str | None, memory: str | None, settings: ClusterSettings
) -> dict[str, Any]:
    # No limit of CPU: it would slow a job down while cores are idle.
    limit = memory or settings.memory_limit
    return {
        "requests": {
            "cpu": cpu or settings.cpu_request,
            "memory": memory or settings.memory_request,
        },
        **({"limits": {"memory": limit}} if limit else {}),
    }


def _deadline(record: Record, settings: ClusterSettings, common: ManifestContext) -> dict[str, int]:
    """Return the backstop that Kubernetes keeps when no watcher lives: it counts from the pod's
    arrival on its node.
    """
    limit = record.get("time_limit")
    if not limit:
        return {}
    allowed = limit + settings.image_pull_timeout + common.start_timeout + common.grace_seconds
    return {"activeDeadlineSeconds": min(_LONGEST_DEADLINE, _whole(allowed))}


def _placement(record: Record, gpu_class: GpuClass, settings: ClusterSettings) -> dict[str, Any]:
    nodes = {**settings.node_selector, **gpu_class.node_selector}
    avoid = [
        {"key": "metadata.name", "operator": "NotIn", "values": [node]}  # takes one value
        for node in record.get("avoid") or ()
    ]
    # Preferred only: the node at fault may be the only one there is.
    away = {"weight": 100, "preference": {"matchFields": avoid}}
    return {
        **({"nodeSelector": nodes} if nodes else {}),
        "tolerations": _tolerations(gpu_class),
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


def _tolerations(gpu_class: GpuClass) -> list[dict[str, Any]]:
    return [
        dict(_GPU_TOLERATION),
        *(dict(each) for each in gpu_class.tolerations if dict(each) != _GPU_TOLERATION),
    ]


def _whole(seconds: float) -> int:
    """Return seconds as Kubernetes takes them: whole, and at least one."""
    return max(1, math.ceil(seconds))
