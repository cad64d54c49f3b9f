"""The Kubernetes Jobs of attempts, container jobs and finishers.

Pure: the same arguments give the same object. One Job runs one pod once, since Celery owns retries
and each attempt has its own Job. Every pod satisfies Pod Security "restricted".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.launchers.kubernetes.api.objects import CONTAINER
from gpuqueue.launchers.kubernetes.manifest.class_template import class_template
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.environment import (
    NO_GPU,
    VISIBLE_GPUS,
    executor_variables,
    literal,
    variables,
)
from gpuqueue.launchers.kubernetes.manifest.finisher_limits import with_limits_of_class
from gpuqueue.launchers.kubernetes.manifest.images import image_of
from gpuqueue.launchers.kubernetes.manifest.names import (
    ATTEMPT_ROLE,
    CLASS,
    CONTAINER_ROLE,
    FINISHER_ROLE,
    ISOLATION,
    MANAGED_BY,
    ORIGIN,
    OWNER,
    ROLE,
    annotations_of,
    finisher_name,
    instance_of,
    job_name,
    label_value,
    labels,
)
from gpuqueue.launchers.kubernetes.manifest.opt_outs import opt_outs
from gpuqueue.launchers.kubernetes.manifest.pod_fields import (
    deadline,
    gpu_resources,
    host_resources,
    longest_run,
    prefers,
    scheduling,
    tolerations,
    whole_seconds,
)
from gpuqueue.launchers.kubernetes.manifest.pod_template import PodTemplate, apply_template
from gpuqueue.launchers.kubernetes.manifest.shared_memory import with_shared_memory
from gpuqueue.launchers.kubernetes.manifest.warm import warm_variables
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.executor_env import LOAD_TIMEOUT, START, STATES, VARIABLES
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.record import Record, goes_on
from gpuqueue.model.unbound import is_unbound
from gpuqueue.settings.classes import of_class
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.store.keys import VERSION

Manifest = dict[str, Any]
#: Seconds by which Kubernetes deletes an ended Job later than dispatchers do: how long they can be
#: away.
LAST_RESORT = 86_400


def attempt_manifest(
    record: Record, gpu_class: GpuClass, settings: ClusterSettings, common: ManifestContext
) -> Manifest:
    """Return the Job of an attempt: the executor, with one share of a GPU of the class if it has
    any.

    Raises :class:`InvalidJob` if the image is missing or not allowed, :class:`SettingsError` if the
    pod template contradicts the class.
    """
    settings, common = of_class(settings, gpu_class), common.of_class(gpu_class)
    name = job_name(common.owner, record)
    container = {
        "image": image_of(record.get("image"), gpu_class, settings),
        "command": settings.executor_words,
        "env": executor_variables(
            record,
            instance_of(common.namespace, name),
            common_environment(common)
            | warm_variables(record, gpu_class, settings, common)
            | ({} if gpu_class.has_gpu else NO_GPU),
            settings.secret_name,
        ),
        "resources": gpu_resources(record, gpu_class, settings)
        if gpu_class.has_gpu
        else host_resources(None, None, settings),
    }
    pod = _attempt_pod(record, gpu_class, settings, common)
    templates = (common.pod_template, class_template(gpu_class))
    made = _job(name, ATTEMPT_ROLE, record, container, pod, settings, common, templates)
    return _with_shared_memory(made, gpu_class, settings)


def container_manifest(
    record: Record, gpu_class: GpuClass, settings: ClusterSettings, common: ManifestContext
) -> Manifest:
    """Return the Job of a container job: image, command and environment as the job sets them.

    It gets nothing of the application, neither the Secret nor its token. Only the annotation holds
    the token, for adoption. Raises as :func:`attempt_manifest` does.
    """
    settings, common = of_class(settings, gpu_class), common.of_class(gpu_class)
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
        "resources": gpu_resources(record, gpu_class, settings),
    }
    pod = _attempt_pod(record, gpu_class, settings, common)
    templates = [
        each and each.for_foreign_image()
        for each in (common.pod_template, class_template(gpu_class))
    ]
    name = job_name(common.owner, record)
    made = _job(name, CONTAINER_ROLE, record, container, pod, settings, common, templates)
    return _with_shared_memory(made, gpu_class, settings)


def finisher_manifest(
    record: Record,
    finisher: str,
    timeout: float,
    gpu_class: GpuClass,
    settings: ClusterSettings,
    common: ManifestContext,
) -> Manifest:
    """Return the Job that finishes a job in the code of its application, without a GPU.

    ``timeout``: seconds that the finish may take. Kubernetes ends the Job after these and all waits
    before, if no dispatcher does. It can run on any node, and prefers that of the attempt, which
    has its image. Raises as :func:`attempt_manifest` does.
    """
    settings, common = of_class(settings, gpu_class), common.of_class(gpu_class)
    name = finisher_name(common.owner, record, finisher)
    variables_ = {**common_environment(common), "GPUQUEUE_FINISHER": finisher, **NO_GPU}
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
    pod = {"tolerations": tolerations(gpu_class), **prefers(_node_with_image(record))}
    templates = (
        common.pod_template and common.pod_template.for_finisher(),
        class_template(gpu_class).for_finisher(anywhere=True),
    )
    made = _job(name, FINISHER_ROLE, record, container, pod, settings, common, templates)
    with_limits_of_class(made["spec"]["template"]["spec"], gpu_class)
    waits = settings.quota_timeout, settings.unschedulable_timeout, settings.image_pull_timeout
    made["spec"]["activeDeadlineSeconds"] = whole_seconds(sum(waits) + timeout)
    made["spec"]["ttlSecondsAfterFinished"] = settings.job_ttl_seconds
    return made


def _node_with_image(record: Record) -> str | None:
    """Return the node of the attempt; None if it never had one, or if the node is at fault."""
    node = record.get("node")
    same_image = record["task"] != CONTAINER_TASK
    return node if same_image and node not in (record.get("avoid") or ()) else None


def _job(
    name: str,
    role: str,
    record: Record,
    container: Mapping[str, Any],
    pod: Mapping[str, Any],
    settings: ClusterSettings,
    common: ManifestContext,
    templates: Iterable[PodTemplate | None],
) -> Manifest:
    tags, annotations = labels(common.owner, role, record), annotations_of(common.owner, record)
    others = opt_outs(role, settings)
    template: dict[str, Any] = {
        "metadata": {
            "labels": {**tags, **others.labels},
            "annotations": {**annotations, **others.annotations},
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": whole_seconds(common.grace_seconds),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                **({"runAsUser": settings.run_as_user} if settings.run_as_user else {}),
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
    job_labels, job_annotations = dict[str, str](), dict[str, str]()
    for each in filter(None, templates):
        template = apply_template(each, template)
        job_labels.update(each.job_labels)
        job_annotations.update(each.job_annotations)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": common.namespace,
            "labels": {**job_labels, **tags},
            "annotations": {**job_annotations, **annotations},
        },
        "spec": {
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            # The dispatcher deletes it, once its end is written.
            "ttlSecondsAfterFinished": settings.job_ttl_seconds + LAST_RESORT,
            "template": template,
        },
    }


def _with_shared_memory(made: Manifest, gpu_class: GpuClass, settings: ClusterSettings) -> Manifest:
    template = made["spec"]["template"]
    template["spec"] = with_shared_memory(template["spec"], gpu_class, settings)
    return made


def _attempt_pod(
    record: Record, gpu_class: GpuClass, settings: ClusterSettings, common: ManifestContext
) -> dict[str, Any]:
    # The deadline counts from the arrival of the pod on its node.
    start_timeout = gpu_class.start_timeout or common.start_timeout
    overhead = settings.image_pull_timeout + start_timeout + common.grace_seconds
    if goes_on(record):
        overhead += common.load_timeout + gpu_class.warm_age
    # Without a GPU, any node will do, GPU nodes too, which have its image.
    nodes = (
        scheduling(
            *(record, gpu_class, settings),
            _apart(record, gpu_class, common),
            _together(record, common),
        )
        if gpu_class.has_gpu
        else {"tolerations": tolerations(gpu_class)}
    )
    return {**deadline(longest_run(record, gpu_class), overhead), **nodes}


def _apart(record: Record, gpu_class: GpuClass, common: ManifestContext) -> list[Manifest]:
    """Return what selects the pods of its class that an attempt must not meet on its node, as the
    scheduler of the cluster guards it once more. One that waits for a node must not come to one
    that others have: a pod of another domain has no origin, or another one.
    """
    domain = record.get("domain", "")
    if not domain:
        return []
    alone = record["isolation"] == EXCLUSIVE and gpu_class.exclusive_slots == 1
    other = SHARED if record["isolation"] == EXCLUSIVE else EXCLUSIVE
    isolations = [SHARED, EXCLUSIVE] if alone else [other]
    found = [_of_class(record, common, ISOLATION, "In", isolations)]
    if is_unbound(domain):
        found.append(_of_class(record, common, ORIGIN, "NotIn", [domain]))
    return found


def _together(record: Record, common: ManifestContext) -> list[Manifest]:
    """Return what selects the pods whose node is the one of an attempt: those that wait for a node
    together. Kubernetes lets the first of them go to any node.
    """
    domain = record.get("domain", "")
    return [_of_class(record, common, ORIGIN, "In", [domain])] if is_unbound(domain) else []


def _of_class(
    record: Record, common: ManifestContext, label: str, operator: str, values: list[str]
) -> Manifest:
    """Return a selector of pods of attempts of the same class, by one label more."""
    tags = {MANAGED_BY: "gpuqueue", OWNER: common.owner, CLASS: label_value(record["gpu_class"])}
    roles = {"key": ROLE, "operator": "In", "values": [ATTEMPT_ROLE, CONTAINER_ROLE]}
    kinds = {"key": label, "operator": operator, "values": values}
    return {"matchLabels": tags, "matchExpressions": [roles, kinds]}


def common_environment(common: ManifestContext) -> dict[str, str]:
    """Return the variables that all executors of a dispatcher share."""
    return {
        **({"GPUQUEUE_APP": common.app} if common.app else {}),
        "GPUQUEUE_LAYOUT": str(VERSION),
        "GPUQUEUE_LOG_LEVEL": common.log_level,
        "GPUQUEUE_TOMBSTONE_SECONDS": str(common.tombstone_seconds),
        "GPUQUEUE_GRACE_SECONDS": str(common.grace_seconds),
        LOAD_TIMEOUT: str(common.load_timeout),
        **({STATES: common.states} if common.states != "all" else {}),
        # Else the image may choose.
        **({START: common.start} if common.start != "fork" else {}),
        "PYTHONUNBUFFERED": "1",
    }
