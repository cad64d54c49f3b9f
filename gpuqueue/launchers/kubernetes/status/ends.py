"""Read the end of a pod: status → reason, message, and the node at fault. Pure.

Never here: whether a pod has ended (see ``read_status``). The status of an ended pod can state
several causes. The first match in the order of ``_READINGS`` wins: what stopped the pod comes
before how its process reacted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from gpuqueue.launchers.kubernetes.api.objects import CONTAINER, Pod
from gpuqueue.launchers.kubernetes.status.beside import STOP, executors, of_executor
from gpuqueue.launchers.kubernetes.status.last_state import (
    MOST_TEXT,
    NOT_STARTED,
    LastState,
    is_lost,
)
from gpuqueue.model.ends import EXECUTORS_OWN, EXIT_DEVICE, EXIT_OK, REJECTION, End, explain
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason

#: Reason of the DisruptionTarget condition → end, message, whether the node is at fault.
_DISRUPTIONS: Final = {
    "PreemptionByScheduler": (EndReason.PREEMPTED, "preempted by a pod of higher priority", False),
    "DeletionByTaintManager": (
        EndReason.NODE_LOST,
        "its node was lost, or closed by a taint",
        True,
    ),
    "DeletionByPodGC": (EndReason.NODE_LOST, "its node is gone", True),
    "EvictionByEvictionAPI": (EndReason.EVICTED, "evicted", False),
    "TerminationByKubelet": (EndReason.EVICTED, "evicted by its node", True),
}
#: The same for ``status.reason`` of the pod.
_POD_REASONS: Final = {
    "Evicted": (EndReason.EVICTED, "evicted by its node", True),
    "NodeLost": (EndReason.NODE_LOST, "its node was lost", True),
    "NodeShutdown": (EndReason.EVICTED, "its node was shutting down", True),
    "Terminated": (EndReason.EVICTED, "its node shut down", True),
    "Preempting": (EndReason.PREEMPTED, "its node made room for a critical pod", False),
    "DeadlineExceeded": (EndReason.TIME_LIMIT, "it ran longer than its time limit", False),
}
#: Reasons of a node that rejects a pod, at first or after a restart of its kubelet. OutOf<resource>
#: is another one.
_REFUSALS: Final = frozenset({"UnexpectedAdmissionError", "NodeAffinity"})
#: Evictions for a limit of the pod itself, which any node would repeat.
_OWN_LIMIT: Final = re.compile(
    r"exceeds the (total )?limit|exceeded its local ephemeral storage limit"
)
#: The words of a node under pressure, or shutting down, about a pod that it has never taken.
_NOT_ADMITTED: Final = re.compile(r"node had condition|was rejected")
#: The container that an eviction of that kind names.
_LIMIT_OF: Final = re.compile(r"Container (\S+) exceeded its local ephemeral storage limit")
#: Error of the device plugin for a request of two shares of a time-sliced GPU.
_TOO_MANY: Final = "maximum request size"
#: Ends that speak against a node if several jobs meet them. An eviction may be the jobs' doing.
_NODE_FAULTS: Final = frozenset({EndReason.INFRA, EndReason.NODE_LOST})
#: Start errors caused by the image or command of the container …
_JOB_FAULT: Final = re.compile(
    r'container (process|init)[^"]*exec: "|requirement error|unsatisfied condition', re.IGNORECASE
)
#: … or by container runtime, driver or machine.
_NODE_FAULT: Final = re.compile(
    r"nvidia-container-|nvidia-ctk|\bnvml\b|driver/library version mismatch|\bCDI\b|no space left"
    r" on device|too many open files"
    r"|gathering device information|\bl?stat \S*/dev/"
    r"|cannot allocate memory|resource temporarily unavailable|device or resource busy|input/output"
    r" error|\bcgroup"
    r"|context deadline exceeded|transport is closing|ttrpc: closed|connection refused|error"
    r" reading from server",
    re.IGNORECASE,
)
#: Why a node cannot store an image that the registry has.
_DISK_FAULT: Final = re.compile(
    r"no space left on device|disk quota exceeded|input/output error|read-only file system"
    r"|structure needs cleaning",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Cause:
    reason: EndReason
    what: str
    quote: str = ""
    """Message of the scheduler, the kubelet or the runtime."""
    blames_node: bool = False
    blames: str = ""
    """As in :class:`gpuqueue.model.ends.End`."""


def end_of(pod: Pod, *, deleted: bool = False) -> End:
    """Return the end of a pod that has ended. ``deleted``: the API has sent DELETED for it."""
    own = of_executor(pod)
    deleted = deleted and own.metadata.deletion_timestamp == pod.metadata.deletion_timestamp
    last = LastState.of(own, deleted=deleted)
    cause = next(cause for read in _READINGS if (cause := read(last)) is not None)
    node, blames = last.node if cause.blames_node else "", cause.blames
    if node and cause.reason in _NODE_FAULTS and not blames:
        blames = PlaceKind.NODE
    if blames == REJECTION and not node:
        blames = ""
    return End(cause.reason, _text(cause, last), node, last.evidence(), blames)


def container_end(pod: Pod, end: End) -> End:
    """Return the end of a container job, whose exit code comes from its program, not an executor.

    ``end``: the end of its pod, read as that of an executor.
    """
    message = next((each.terminated.message for each in executors(pod) if each.terminated), None)
    evidence = {**end.evidence, "message": message or ""}
    code = end.evidence.get("exit_code")
    if code == EXIT_OK and end.reason == EndReason.ERROR:
        return End(EndReason.SUCCEEDED, "", "", evidence)
    if code in EXECUTORS_OWN and end.reason in (EndReason.INFRA, EndReason.ERROR):
        text = f"its container ended with exit code {code} (node {pod.spec.node_name or ''})"
        return End(EndReason.ERROR, text, "", evidence)
    return replace(end, evidence=evidence)


def is_node_fault(message: str) -> bool:
    """Whether the message of kubelet or runtime means that the node caused a start error."""
    return not _JOB_FAULT.search(message) and _NODE_FAULT.search(message) is not None


def is_disk_fault(message: str) -> bool:
    """Whether a node cannot store an image, which another node may well pull."""
    return _DISK_FAULT.search(message) is not None


def _text(cause: _Cause, last: LastState) -> str:
    text = cause.what
    if quote := " ".join(cause.quote.split()):
        text += ": " + (quote if len(quote) <= MOST_TEXT else quote[: MOST_TEXT - 1] + "…")
    if facts := [fact for fact in last.facts() if fact not in cause.what]:
        text += f" ({', '.join(facts)})"
    if last.last_output:  # only a failed container falls back to its log
        source = "its termination message" if last.code == EXIT_OK else "the end of its log"
        text += f"; {source}:\n{last.last_output}"
    return text


# -- readings: each returns a cause, or None -------------------------------------------------------


def _by_success(last: LastState) -> _Cause | None:
    if last.code != EXIT_OK or last.pod.status.reason == "DeadlineExceeded":
        return None  # a program that is stopped for its deadline may exit with 0
    end = explain(EXIT_OK)
    return _Cause(end.reason, end.error, blames=end.blames)


def _by_disruption(last: LastState) -> _Cause | None:
    target = last.pod.status.condition("DisruptionTarget")
    if target is None or target.status != "True":
        return None
    if target.reason == "TerminationByKubelet" and last.pod.status.reason in _POD_REASONS:
        return None  # the reason of the pod is more specific
    reason, what, blames = _DISRUPTIONS.get(
        target.reason or "", (EndReason.EVICTED, f"disrupted ({target.reason})", False)
    )
    return _Cause(reason, what, target.message or "", blames)


def _by_stop(last: LastState) -> _Cause | None:
    """Read the end of a pod that a queue of pods has stopped, to give its room to another."""
    target = last.pod.status.condition(STOP)
    if target is None or target.status != "True" or not last.deleted:
        return None
    what = f"stopped by a controller of pods ({target.reason or 'without a reason'})"
    return _Cause(EndReason.PREEMPTED, what, target.message or "")


def _by_silence(last: LastState) -> _Cause | None:
    """Read the end of a pod that was given up while its node was silent: deleted by force."""
    if not (last.node_silent and last.runs):
        return None
    return _Cause(
        EndReason.NODE_LOST, "its node did not answer, and its pod was given up", "", True
    )


def _by_pod_reason(last: LastState) -> _Cause | None:
    status = last.pod.status
    message = status.message or ""
    if not status.reason:
        return None
    named = _LIMIT_OF.search(message)
    if status.reason == "Evicted" and named and named[1] != CONTAINER:
        return _Cause(EndReason.EVICTED, "evicted for a container beside its executor", message)
    if status.reason == "Evicted" and _OWN_LIMIT.search(message):
        return _Cause(EndReason.ERROR, "it used more disk than its limit", message)
    if status.reason in _POD_REASONS:
        reason, what, blames = _POD_REASONS[status.reason]
        rejected = blames and last.never_started and _NOT_ADMITTED.search(message)
        return _Cause(reason, what, message, blames, REJECTION if rejected else "")
    if _TOO_MANY in message:
        return _Cause(
            EndReason.BAD_SPEC,
            f"it requests more than one share of a GPU ({status.reason})",
            message,
        )
    refused = status.reason in _REFUSALS or status.reason.startswith("OutOf")
    # An unknown reason of a pod that never started is a rejection too.
    if refused or (last.never_started and last.ended is None):
        return _Cause(
            EndReason.INFRA,
            f"its node rejected its pod ({status.reason})",
            message,
            True,
            REJECTION,
        )
    return None


def _by_container_reason(last: LastState) -> _Cause | None:
    if last.ended is None:
        return None
    reason, message = last.ended.reason, last.ended.message or ""
    # No job brings an init container: it would fail every pod of the class.
    blames = PlaceKind.PODS if last.init else ""
    if reason == "OOMKilled":
        what = f"out of host memory: {last.who} exceeded its memory limit"
        return _Cause(EndReason.HOST_OOM, what, blames=blames)
    if reason in NOT_STARTED and is_node_fault(message):
        return _Cause(EndReason.INFRA, f"its node could not start {last.who}", message, True)
    if reason in NOT_STARTED:
        what = f"{last.who} cannot be started"
        return _Cause(EndReason.BAD_SPEC, what, message, blames=blames)
    if is_lost(last.ended) and not last.deleted:  # for a deleted pod, this is normal
        return _Cause(EndReason.INFRA, f"its node lost track of {last.who}", message, True)
    return None


def _by_deletion(last: LastState) -> _Cause | None:
    if not last.deleted or last.code in EXECUTORS_OWN:  # the exit code is more specific
        return None
    return _Cause(
        EndReason.POD_DELETED,
        "its pod was deleted" + (", and the end of its container is unknown" if last.runs else ""),
    )


def _by_exit_code(last: LastState) -> _Cause | None:
    if last.init and last.ended:
        what = f"{last.who} failed with exit code {last.ended.exit_code}"
        return _Cause(EndReason.INFRA, what, blames=PlaceKind.PODS)
    if last.code is None:
        return None
    end = explain(last.code)
    device = last.code == EXIT_DEVICE
    return _Cause(end.reason, end.error, blames_node=device, blames="" if device else end.blames)


def _by_nothing(last: LastState) -> _Cause:
    return _Cause(
        EndReason.INFRA,
        "its pod failed, and its status does not state why",
        last.pod.status.message or "",
    )


_READINGS: Final[tuple[Callable[[LastState], _Cause | None], ...]] = (
    _by_success,
    _by_disruption,
    _by_stop,
    _by_pod_reason,
    _by_silence,
    _by_container_reason,
    _by_deletion,
    _by_exit_code,
    _by_nothing,
)
