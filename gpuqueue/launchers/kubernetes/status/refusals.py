"""What a refusal is about: one job, or every job of its class. Pure.

The class is the default: its jobs wait then, and none fails for a fault of the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gpuqueue.launchers.kubernetes.status.pod_events import PROBLEMS
from gpuqueue.launchers.kubernetes.status.read_status import PodStatusSummary
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.ends import End
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record

#: A ResourceQuota refuses an object: it is full, demands limits, is not counted yet, or is missing
#: for the priority of the object.
_QUOTA: Final = re.compile(
    r"exceeded quota|failed quota|status unknown for quota|insufficient quota to match these scopes"
)
#: The words of a quota that demands amounts: ``limits.cpu for: executor; limits.memory for: …``.
_DEMANDS: Final = re.compile(r"failed quota: .*?must specify (.*)")
_DEMANDED: Final = re.compile(r"([\w.]+) for: ")
_TEMPLATE: Final = "pod_template.spec.containers of the class, or in GPUQUEUE_POD_TEMPLATE"
#: Demanded resource → which fields or settings give it. Of requests, all are set.
_GIVEN_BY: Final = {"limits.memory": "host_memory of the class, or GPU_MEMORY_LIMIT"}
#: What a registry, or the runtime for it, says of an image that does not exist.
_NOT_FOUND: Final = re.compile(
    r"code = NotFound"
    r"|manifest unknown|MANIFEST_UNKNOWN|name unknown|NAME_UNKNOWN"
    r"|manifest for \S+ not found|repository \S+ not found"
    r"|status code[^:]*: 404|: not found(?! *[:\w])"
    r"|does not exist in the registry"
)
#: What the store of a node has lost of an image that exists.
_LOST_ON_NODE: Final = re.compile(
    r"\bsnapshot\s|\b(content digest|blobs?|layer)[ /:\"]+sha256\b|failed to (prepare|extract)\b",
    re.IGNORECASE,
)
#: Reasons of a waiting container: its image has no valid name, or an object that it names is
#: missing.
_NO_NAME: Final = "InvalidImageName"
_NO_CONFIG: Final = "CreateContainerConfigError"
#: The user of the image is root, or has no number: so is the image.
_ROOT: Final = "container has runAsNonRoot and image"
#: A slow node still creates the container that its kubelet has asked for before.
_SLOW: Final = "failed to reserve container name"
#: A file of the node that a volume of the class names.
_OF_VOLUME: Final = re.compile(r"failed to (l?stat|mkdir|create) [\"/]|hostPath")
#: Too large for the API server: what a job says of itself has no bound, a class has one.
_TOO_LARGE: Final = 413
_INVALID: Final = 422
#: The fields of a Job that a job sets by its image, its limit, or as a container job.
_IMAGE: Final = re.compile(r"spec\.template\.spec\.containers\[\d+\]\.image$")
#: The name, labels and annotations of a Job come from the record of its job.
_METADATA: Final = "metadata."
_DEADLINE: Final = "spec.template.spec.activeDeadlineSeconds"
_OF_CONTAINER_JOB: Final = re.compile(
    r"spec\.template\.spec\.containers\[\d+\]\.(command|args|env|workingDir)\b"
)


def kind_of_refusal(message: str) -> PlaceKind:
    """Return what the refusal of a Job or a pod holds."""
    return PlaceKind.QUOTA if _QUOTA.search(message) else PlaceKind.LAUNCH


def fix_of_demand(resource: str) -> str:
    """Return how to give all pods of a class what a quota demands, such as ``limits.cpu``."""
    return f"set {_GIVEN_BY.get(resource) or f'{resource} in {_TEMPLATE}'}"


def with_fix(message: str) -> str:
    """Return the refusal of a pod with what helps, if the quota demands what the class can set."""
    demands = _DEMANDS.search(message)
    resources = _DEMANDED.findall(demands[1]) if demands else ()
    return "; ".join([message, *map(fix_of_demand, resources)])


def has_own_image(record: Record) -> bool:
    """Whether the job names its image, which then meets no other job of the class."""
    return bool(record.get("image")) or record.get("task") == CONTAINER_TASK


def is_absent(message: str) -> bool:
    """Whether the registry says that it has no such image, rather than that it is away."""
    return _NOT_FOUND.search(message) is not None and not _LOST_ON_NODE.search(message)


def without_own_fault(summary: PodStatusSummary, record: Record) -> PodStatusSummary:
    """Return the status of a pod for its job: what it meets because of the job itself holds nothing
    but ends the job. A job sets no other container than its own.
    """
    if summary.container:
        return summary
    own = has_own_image(record)
    if summary.clock == "image_error" and own:
        own = is_absent(summary.detail) or summary.detail.startswith(_NO_NAME)
    elif summary.clock == "config_error" and own:
        # A job sets neither volumes nor the runtime of its pod.
        own = summary.detail.partition(":")[0] not in {_NO_CONFIG, *PROBLEMS}
        own = (own or _ROOT in summary.detail) and _SLOW not in summary.detail
        own = own and not _OF_VOLUME.search(summary.detail)
    else:
        own = False
    return replace(summary, holds=None) if own else summary


def of_its_class(end: End, record: Record) -> End:
    """Return the end of a pod for its job: a container that cannot be started because of an image
    or a command that the job has not set would meet every job of its class.
    """
    if end.reason is not EndReason.BAD_SPEC or has_own_image(record):
        return end
    return replace(end, blames=PlaceKind.PODS)


def is_own_fault(status: int, fields: Sequence[str], record: Record, *, denied: bool) -> bool:
    """Whether the server refuses a Job for what the job itself has set.

    ``status``: of the response. ``fields``: those that it names as invalid. ``denied``: whether a
    webhook or a policy refuses it.
    """
    if status == _TOO_LARGE:
        return not denied
    if denied and any(each.startswith(_METADATA) for each in fields):
        return False  # what a webhook demands of all Jobs, such as a label
    return status == _INVALID and bool(fields) and all(_is_set_by(record, one) for one in fields)


def _is_set_by(record: Record, field: str) -> bool:
    if field.startswith(_METADATA):
        return True
    if _IMAGE.fullmatch(field):
        return has_own_image(record)
    if field == _DEADLINE:
        return record.get("time_limit") is not None
    return record.get("task") == CONTAINER_TASK and _OF_CONTAINER_JOB.match(field) is not None
