"""The Kubernetes Jobs of attempts, container jobs and finishers.

Pure: the same arguments give the same object. One Job runs one pod once, since Celery owns retries
and each attempt has its own Job. Every pod satisfies Pod Security "restricted".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.launchers.kubernetes.api.objects import CONTAINER
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
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
from gpuqueue.launchers.kubernetes.manifest.pod_fields import (
    deadline,
    gpu_resources,
    host_resources,
    scheduling,
    tolerations,
    whole_seconds,
)
from gpuqueue.launchers.kubernetes.manifest.pod_template import apply_template
from gpuqueue.launchers.kubernetes.manifest.warm import warm_variables
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.executor_env import LOAD_TIMEOUT, START, VARIABLES
from gpuqueue.model.record import Record, goes_on
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.store.keys import VERSION

Manifest = dict[str, Any]


def attempt_manifest(
    record: Record, gpu_class: GpuClass, settings: ClusterSettings, common: ManifestContext
) -> Manifest:
    """Return the Job of an attempt: the executor, with one share of a GPU of the class.

    Raises :class:`InvalidJob` if the image is missing or not allowed, :class:`SettingsError` if the
    pod template contradicts the class.
    """
    name = job_name(common.owner, record)
    container = {
        "image": image_of(record.get("image"), gpu_class, settings),
        "command": settings.executor_words,
        "env": executor_variables(
            record,
            instance_of(common.namespace, name),
            common_environment(common) | warm_variables(record, gpu_class, settings, common),
            settings.secret_name,
        ),
        "resources": gpu_resources(gpu_class, settings),
    }
    pod = _gpu_pod(record, gpu_class, settings, common)
    return _job(name, ATTEMPT_ROLE, record, container, pod, settings, common)


def container_manifest(
    record: Record, gpu_class: GpuClass, settings: ClusterSettings, common: ManifestContext
) -> Manifest:
    """Return the Job of a container job: image, command and environment as the job sets them.

    It gets nothing of the application, neither the Secret nor its token. Only the annotation holds
    the token, for adoption. Raises as :func:`attempt_manifest` does.
    """
    container_spec: object = record.get("container")
    if not isinstance(container_spec, Mapping):  # adopted: the annotation holds only True
        raise InvalidJob.field(
            "container", container_spec, "is unknown, since Redis lost it", "send the job again"
        )
    env = container_spec.get("env") or {}
    if VISIBLE_GPUS in env:
        raise InvalidJob.field(
            f"env.{VISIBLE_GPUS}",
            env[VISIBLE_GPUS],
            "would expose the GPUs of other jobs",
            "leave it out",
        )
    words = {
        name: [literal(word) for word in container_spec[name]]
        for name in ("command", "args")
        if container_spec.get(name)
    }
    container = {
        "image": image_of(record.get("image"), gpu_class, settings),
        **words,
        **(
            {"workingDir": container_spec["working_dir"]}
            if container_spec.get("working_dir")
            else {}
        ),
        "env": variables({**env, VARIABLES["id"]: record["id"]}),
        "resources": gpu_resources(gpu_class, settings),
    }
    pod = _gpu_pod(record, gpu_class, settings, common)
    public = replace(
        common, pod_template=common.pod_template and common.pod_template.for_foreign_image()
    )
    return _job(
        job_name(common.owner, record), CONTAINER_ROLE, record, container, pod, settings, public
    )


def finisher_manifest(
    record: Record,
    finisher: str,
    timeout: float,
    gpu_class: GpuClass,
    settings: ClusterSettings,
    common: ManifestContext,
) -> Manifest:
    """Return the Job that finishes a job in the code of its application, without a GPU.

    Kubernetes ends it ``timeout`` seconds after its creation. It can run on any node, including GPU
    nodes, which have its image already. Raises as :func:`attempt_manifest` does.
    """
    name = finisher_name(common.owner, record, finisher)
    variables_ = {**common_environment(common), "GPUQUEUE_FINISHER": finisher, VISIBLE_GPUS: "void"}
    container = {
        # The image of a container job is foreign and must not get the Secret.
        "image": image_of(
            None if record["task"] == CONTAINER_TASK else record.get("image"), gpu_class, settings
        ),
        "command": settings.executor_words,
        "env": executor_variables(
            record, instance_of(common.namespace, name), variables_, settings.secret_name
        ),
        "resources": host_resources(None, None, settings),
    }
    pod = {"tolerations": tolerations(gpu_class)}
    made = _job(name, FINISHER_ROLE, record, container, pod, settings, common)
    made["spec"]["activeDeadlineSeconds"] = whole_seconds(timeout)
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
    tags, annotations = labels(common.owner, role, record), annotations_of(common.owner, record)
    template = {
        "metadata": {"labels": tags, "annotations": annotations},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": whole_seconds(common.grace_seconds),
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
            "annotations": dict(annotations),
        },
        "spec": {
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": settings.job_ttl_seconds,
            "template": apply_template(common.pod_template, template)
            if common.pod_template
            else template,
        },
    }


def _gpu_pod(
    record: Record, gpu_class: GpuClass, settings: ClusterSettings, common: ManifestContext
) -> dict[str, Any]:
    # The deadline counts from the arrival of the pod on its node.
    overhead = settings.image_pull_timeout + common.start_timeout + common.grace_seconds
    if goes_on(record):
        overhead += common.load_timeout + gpu_class.warm_age
    return {**deadline(record, overhead), **scheduling(record, gpu_class, settings)}


def common_environment(common: ManifestContext) -> dict[str, str]:
    """Return the variables that all executors of a dispatcher share."""
    return {
        **({"GPUQUEUE_APP": common.app} if common.app else {}),
        "GPUQUEUE_LAYOUT": str(VERSION),
        "GPUQUEUE_LOG_LEVEL": common.log_level,
        "GPUQUEUE_TOMBSTONE_SECONDS": str(common.tombstone_seconds),
        "GPUQUEUE_GRACE_SECONDS": str(common.grace_seconds),
        LOAD_TIMEOUT: str(common.load_timeout),
        # Else the image may choose.
        **({START: common.start} if common.start != "fork" else {}),
        "PYTHONUNBUFFERED": "1",
    }
