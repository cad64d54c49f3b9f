"""Read the status of a pod for its attempt: phase, wait, deadline, and end. Pure.

The rule for slots: an attempt has ended if all containers of its pod have ended, or if the control
plane has given up the pod (phase Succeeded or Failed, or DELETED): until then the scheduler counts
its GPU. A requested deletion or a silent node does not end it, since the GPU may still be busy. A
pod that never had a node has ended once its deletion is requested: nothing can start it any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gpuqueue.launchers.kubernetes.api.objects import (
    CONTAINER,
    Condition,
    Pod,
    Waiting,
    seconds,
)
from gpuqueue.launchers.kubernetes.status.beside import (
    ends_soon,
    executor_ended,
    kept_by,
)
from gpuqueue.launchers.kubernetes.status.beside import executors as _executors
from gpuqueue.launchers.kubernetes.status.ends import end_of, is_disk_fault, is_node_fault
from gpuqueue.launchers.kubernetes.status.last_state import silent_since
from gpuqueue.launchers.kubernetes.status.suspended import gates
from gpuqueue.model.ends import REJECTION, End
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason, WaitReason


class Phase(StrEnum):
    """The phase of an attempt's pod."""

    UNSCHEDULED = "UNSCHEDULED"
    PREPARING = "PREPARING"
    """On its node, before the start of its container: image, volumes, configuration, init
    containers.
    """
    RUNNING = "RUNNING"
    OTHERS_RUN = "OTHERS_RUN"
    """Its executor has ended, and another container keeps the pod."""
    TERMINATING = "TERMINATING"
    """Deletion was requested. Its container may still run, or appear to."""
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class PodStatusSummary:
    """What the status of a pod means. ``end`` is set if and only if the phase is ENDED."""

    phase: Phase
    wait: WaitReason | None = None
    """Why the executor does not run yet."""
    detail: str = ""
    """The message of scheduler or kubelet, or ""."""
    clock: str | None = None
    """The clock that runs: unschedulable, unanswered, sandbox, sandbox_error, image_pull,
    image_error, config_error or terminating.
    """
    since: float | None = None
    """Start of the clock in Unix seconds, by the time of the API, so a new leader continues it.

    None: the status has no such time (image_error and config_error), so the clock starts when a
    leader first reads it.
    """
    verdict: EndReason | None = None
    """How the attempt ends when the clock runs out. None: it does not, and its slot stays taken."""
    holds: PlaceKind | None = None
    """What is held then, unless the job itself is at fault: the attempt gives its slot back."""
    at_once: bool = False
    """Whether the attempt can never start, so that it gets no grace."""
    end: End | None = None
    node: str = ""
    container: str = ""
    """The container whose problem it is, if that is not the executor."""
    silent: float | None = None
    """Since when the control plane has had no report of its node, in Unix seconds. None: the pod
    does not show that."""


#: Waiting reasons of a container before its turn.
_ON_THE_WAY: Final = frozenset({"", "ContainerCreating", "PodInitializing"})
#: Waiting reasons that concern the image, besides all with "Image" in them. The others concern the
#: configuration of the container.
_IMAGE_ERRORS: Final = frozenset({"RegistryUnavailable", "SignatureValidationFailed"})
#: Reasons that no later try can change.
_HOPELESS: Final = frozenset({"InvalidImageName", "ErrImageNeverPull"})


def read_status(pod: Pod, *, deleted: bool = False) -> PodStatusSummary:
    """Read the status of a pod. ``deleted``: the API has sent DELETED for it. Never raises."""
    node = pod.spec.node_name or ""
    if deleted or _has_ended(pod):
        return PodStatusSummary(Phase.ENDED, end=end_of(pod, deleted=deleted), node=node)
    silent = silent_since(pod)
    if pod.metadata.deletion_timestamp:
        target = pod.status.condition("DisruptionTarget")
        detail = (target.message or "") if target and target.status == "True" else ""
        return PodStatusSummary(
            Phase.TERMINATING,
            None,
            detail,
            "terminating",
            pod.metadata.deletion_requested,
            node=node,
            silent=silent,
        )
    if by := [*kept_by(pod), *ends_soon(pod)]:
        detail = f"its executor has ended; the container {', '.join(by)} keeps its pod"
        return PodStatusSummary(Phase.OTHERS_RUN, None, detail, node=node)
    if _runs(pod):
        return PodStatusSummary(Phase.RUNNING, node=node, silent=silent)
    return _preparing(pod, node) if node else _unscheduled(pod)


def overdue(summary: PodStatusSummary, limit: float) -> End:
    """Return the end of an attempt whose clock ran out after ``limit`` seconds.

    Raises ValueError for a clock without a verdict.
    """
    if summary.verdict is None or summary.clock is None:
        raise ValueError(f"{summary.phase}: no clock ends it")
    what = {
        "unschedulable": f"no node took its pod within {limit:g} s",
        "image_pull": (
            f"its container was not ready to start within {limit:g} s (image, volumes, init"
            " containers)"
        ),
        "sandbox": f"its pod was not ready to start containers within {limit:g} s",
        "image_error": "its image cannot be pulled",
        "config_error": "its container cannot be created",
        "sandbox_error": "its pod cannot be prepared on its node",
    }[summary.clock]
    text = (
        what
        + (f": {summary.detail}" if summary.detail else "")
        + (f" (node {summary.node})" if summary.node else "")
    )
    evidence = {"node": summary.node} if summary.node else {}
    avoid = summary.node if summary.verdict is EndReason.INFRA else ""
    # One node without room for an image is enough: its job has no part in that.
    of_node = REJECTION if summary.clock == "image_error" else PlaceKind.NODE
    blames = summary.holds or (of_node if avoid else "")
    return End(summary.verdict, text, avoid, evidence, blames)


def never_runs(pod: Pod) -> bool:
    """Whether a pod was deleted before it had a node: the API server gives it none any more, even
    if a finalizer keeps the pod.
    """
    reported = pod.status.container_statuses or pod.status.init_container_statuses
    waits = pod.status.phase == "Pending" and not (pod.spec.node_name or reported)
    return waits and pod.metadata.deletion_timestamp is not None


def _has_ended(pod: Pod) -> bool:
    # A kubelet reports these phases only after the end of all containers.
    if pod.status.phase in ("Succeeded", "Failed"):
        return True
    if never_runs(pod):
        return True
    return executor_ended(pod) and not (kept_by(pod) or ends_soon(pod))


def _runs(pod: Pod) -> bool:
    executors = _executors(pod)
    if not executors:
        return pod.status.phase == "Running"
    return any(each.running for each in executors)


def _is_unanswered(pod: Pod) -> bool:
    """Whether the kubelet of its node has reported nothing of a pod."""
    status = pod.status
    reported = status.container_statuses or status.init_container_statuses
    others = any(each.type != "PodScheduled" for each in status.conditions or ())
    return not (status.start_time or reported or others)


def _unscheduled(pod: Pod) -> PodStatusSummary:
    if held := gates(pod):
        return PodStatusSummary(Phase.UNSCHEDULED, WaitReason.SUSPENDED, held)
    condition = pod.status.condition("PodScheduled")
    return PodStatusSummary(
        Phase.UNSCHEDULED,
        # Without the condition, the scheduler has not handled the pod yet.
        WaitReason.UNSCHEDULABLE if condition else WaitReason.STARTING,
        (condition.message or condition.reason or "") if condition else "",
        "unschedulable",
        _since(condition, pod),
        EndReason.UNSCHEDULABLE,
        PlaceKind.SCHEDULING,
    )


def _preparing(pod: Pod, node: str) -> PodStatusSummary:
    """Read a pod on its node: the problem of a container, or else its progress."""
    inits = pod.status.init_container_statuses or ()
    for each in (*inits, *_executors(pod)):
        if each.waiting and (each.waiting.reason or "") not in _ON_THE_WAY:
            return _stuck(each.name, each.waiting, node)
    since = _since(pod.status.condition("PodScheduled"), pod)
    if _is_unanswered(pod):
        # The image has no part in this.
        wait, detail = WaitReason.STARTING, f"node {node} has not taken its pod yet"
        return PodStatusSummary(Phase.PREPARING, wait, detail, "unanswered", since, node=node)
    ready = pod.status.condition("PodReadyToStartContainers")
    if (ready and ready.status != "True") or not (ready or inits or _executors(pod)):
        # No image is pulled yet.
        return PodStatusSummary(
            Phase.PREPARING,
            WaitReason.STARTING,
            "its node prepares network and volumes",
            "sandbox",
            since,
            EndReason.INFRA,
            node=node,
        )
    initialized = pod.status.condition("Initialized")
    if inits and initialized and initialized.status == "True":  # any that still run are sidecars
        since = _later(since, initialized.last_transition_time)
    else:
        for each in inits:
            if each.running:
                since = _later(since, each.running.started_at)
                detail = f"its init container {each.name} is running"
                return PodStatusSummary(
                    Phase.PREPARING,
                    WaitReason.STARTING,
                    detail,
                    "image_pull",
                    since,
                    EndReason.INFRA,
                    PlaceKind.PODS,  # no job brings it: it would keep every pod of the class
                    node=node,
                )
    return PodStatusSummary(
        Phase.PREPARING,
        WaitReason.PULLING_IMAGE,
        "",
        "image_pull",
        since,
        EndReason.IMAGE,
        PlaceKind.IMAGE,
        node=node,
    )


def _stuck(container: str, waiting: Waiting, node: str) -> PodStatusSummary:
    reason, message = waiting.reason or "", waiting.message or ""
    holds: PlaceKind | None
    if "Image" in reason or reason in _IMAGE_ERRORS:
        wait, clock = WaitReason.PULLING_IMAGE, "image_error"
        verdict = EndReason.INFRA if is_disk_fault(message) else EndReason.IMAGE
        holds = PlaceKind.IMAGE if verdict is EndReason.IMAGE else None
    else:
        wait, clock = WaitReason.STARTING, "config_error"
        verdict = EndReason.INFRA if is_node_fault(message) else EndReason.BAD_SPEC
        holds = None if verdict is EndReason.INFRA else PlaceKind.PODS
    other = container if container != CONTAINER else ""
    return PodStatusSummary(
        Phase.PREPARING,
        wait,
        ": ".join(part for part in (other, reason, message) if part),
        clock,
        None,
        verdict,
        holds,
        reason in _HOPELESS,
        node=node,
        container=other,
    )


def _since(condition: Condition | None, pod: Pod) -> float | None:
    since = seconds(condition.last_transition_time) if condition else None
    return seconds(pod.metadata.creation_timestamp) if since is None else since


def _later(since: float | None, text: str | None) -> float | None:
    return max((at for at in (since, seconds(text)) if at is not None), default=None)
