"""Containers beside the executor: whether they keep its pod, and its own end among theirs. Pure.

The scheduler counts the GPU of a pod until the whole pod has ended. An ordinary container that a
webhook has added runs on after the executor; a native sidecar is ended by its node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from gpuqueue.launchers.kubernetes.api.objects import CONTAINER, ContainerStatus, Pod, seconds

#: How much later than its executor a pod ends at most if one cause has ended both, in seconds. The
#: manifest's grace period is added.
TOGETHER: Final = 2.0
_GRACE: Final = 30.0
#: The condition by which Kueue marks a pod that it deletes; Kubernetes marks it by the other one.
STOP: Final = "TerminationTarget"
_TARGETS: Final = frozenset({"DisruptionTarget", STOP})


def executors(pod: Pod) -> Sequence[ContainerStatus]:
    """Return the status of the executor, or of all containers if none has its name."""
    containers = pod.status.container_statuses or ()
    return [each for each in containers if each.name == CONTAINER] or containers


def others(pod: Pod) -> list[ContainerStatus]:
    """Return the ordinary containers beside the executor."""
    own = executors(pod)
    return [each for each in pod.status.container_statuses or () if each not in own]


def executor_ended(pod: Pod) -> bool:
    """Whether the executor has ended."""
    own = executors(pod)
    return bool(own) and all(each.terminated for each in own)


def kept_by(pod: Pod) -> list[str]:
    """Return the ordinary containers that keep a pod after its executor has ended: until they end
    by themselves, or the pod is deleted.
    """
    return [each.name for each in others(pod) if not each.terminated] if executor_ended(pod) else []


def ends_soon(pod: Pod) -> list[str]:
    """Return the native sidecars that its node is ending, since the executor has ended."""
    inits = pod.status.init_container_statuses or ()
    return [each.name for each in inits if each.running] if executor_ended(pod) else []


def of_executor(pod: Pod) -> Pod:
    """Return a pod without what came only after the end of its executor: deletion, disruption, or
    the reason of a pod that other containers have kept.

    By the times that the pod states, in whole seconds: what came within the same second stays.
    """
    ends = [at for each in executors(pod) if (at := _finished(each)) is not None]
    if not (executor_ended(pod) and others(pod) and ends):
        return pod
    at, meta, status = max(ends), pod.metadata, pod.status
    requested = meta.deletion_requested
    if requested is not None and requested > at:
        meta = replace(meta, deletion_timestamp=None)
    conditions = [
        each
        for each in status.conditions or ()
        if each.type not in _TARGETS or (seconds(each.last_transition_time) or at) <= at
    ]
    status = replace(status, conditions=tuple(conditions))
    grace = pod.spec.termination_grace_period_seconds
    latest = max((_finished(each) or at for each in others(pod)), default=at)
    if latest - at > (_GRACE if grace is None else grace) + TOGETHER:
        status = replace(status, reason=None, message=None)
    return replace(pod, metadata=meta, status=status)


def _finished(container: ContainerStatus) -> float | None:
    return seconds(container.terminated.finished_at) if container.terminated else None
