"""How the end of a pod reads: status → reason, words, and the node at fault. Pure.

Whether a pod has ended is not decided here (see observe.py). Of the many things that a dead pod's
status says, the first in the order of ``_READINGS`` is taken for the cause: who stopped the pod,
before what its process made of being stopped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.status.last_state import (
    LOST_TRACK,
    MOST_TEXT,
    NOT_STARTED,
    Remains,
)
from gpuqueue.model.ends import EXECUTORS_OWN, EXIT_DEVICE, EXIT_OK, End, explain
from gpuqueue.model.reasons import EndReason

#: The DisruptionTarget condition's reason → end, words, whether the node is at fault.
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
#: The pod's own ``status.reason``, likewise.
_POD_REASONS: Final = {
    "Evicted": (EndReason.EVICTED, "evicted by its node", True),
    "NodeLost": (EndReason.NODE_LOST, "its node was lost", True),
    "NodeShutdown": (EndReason.EVICTED, "its node was shutting down", True),
    "Terminated": (EndReason.EVICTED, "its node shut down", True),
    "Preempting": (EndReason.PREEMPTED, "its node made room for a critical pod", False),
    "DeadlineExceeded": (EndReason.TIME_LIMIT, "it ran longer than its time limit", False),
}
#: A node does not take a pod, or after its kubelet's restart no longer: beside these there is
#: OutOf<resource>.
_REFUSALS: Final = frozenset({"UnexpectedAdmissionError", "NodeAffinity"})
#: An eviction for the pod's own limits, not for its node's need: it would come again on any node.
_OWN_LIMIT: Final = re.compile(
    r"exceeds the (total )?limit|exceeded its local ephemeral storage limit"
)
#: A device plugin's answer to a request for two shares of a time-sliced GPU.
_TOO_MANY: Final = "maximum request size"
#: A container is not started for the sake of its own image or command …
_JOBS_DOING: Final = re.compile(
    r'container (process|init)[^"]*exec: "|requirement error|unsatisfied condition', re.IGNORECASE
)
#: … or for the container runtime's, the driver's or the machine's.
_NODES_DOING: Final = re.compile(
    r"nvidia-container-|nvidia-ctk|\bnvml\b|driver/library version mismatch|\bCDI\b|no space left"
    r" on device|too many open files"
    r"|cannot allocate memory|resource temporarily unavailable|device or resource busy|input/output"
    r" error|\bcgroup"
    r"|context deadline exceeded|transport is closing|ttrpc: closed|connection refused|error"
    r" reading from server",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Cause:
    reason: EndReason
    what: str
    words: str = ""
    """Somebody's own: the scheduler's, the kubelet's, the runtime's."""
    blames_node: bool = False


def end_of(pod: Pod, *, deleted: bool = False) -> End:
    """Read the end of a pod that has ended. ``deleted``: the API has sent DELETED for it."""
    dead = Remains.of(pod, deleted=deleted)
    cause = next(cause for read in _READINGS if (cause := read(dead)) is not None)
    return End(
        cause.reason, _text(cause, dead), dead.node if cause.blames_node else "", dead.evidence()
    )


def nodes_doing(message: str) -> bool:
    """Whether a container was not made or started for its node's sake, by the words of the kubelet
    or the runtime.
    """
    return not _JOBS_DOING.search(message) and _NODES_DOING.search(message) is not None


def _text(cause: _Cause, dead: Remains) -> str:
    text = cause.what
    if words := " ".join(cause.words.split()):
        text += ": " + (words if len(words) <= MOST_TEXT else words[: MOST_TEXT - 1] + "…")
    if facts := [fact for fact in dead.facts() if fact not in cause.what]:
        text += f" ({', '.join(facts)})"
    if dead.last_words:  # a log is only taken of a container that failed
        text += f"; {'its termination message' if dead.code == EXIT_OK else 'the end of its log'}:\n{dead.last_words}"
    return text


# -- readings: each answers a cause, or None: it has nothing to say --------------------------------


def _by_success(dead: Remains) -> _Cause | None:
    if dead.code != EXIT_OK or dead.pod.status.reason == "DeadlineExceeded":
        return None  # told to stop for its time, a program may well answer 0
    return _Cause(explain(EXIT_OK).reason, explain(EXIT_OK).error)


def _by_disruption(dead: Remains) -> _Cause | None:
    target = dead.pod.status.condition("DisruptionTarget")
    if target is None or target.status != "True":
        return None
    if target.reason == "TerminationByKubelet" and dead.pod.status.reason in _POD_REASONS:
        return None  # which says more
    reason, what, blames = _DISRUPTIONS.get(
        target.reason or "", (EndReason.EVICTED, f"disrupted ({target.reason})", False)
    )
    return _Cause(reason, what, target.message or "", blames)


def _by_pod_reason(dead: Remains) -> _Cause | None:
    status = dead.pod.status
    message = status.message or ""
    if not status.reason:
        return None
    if status.reason == "Evicted" and _OWN_LIMIT.search(message):
        return _Cause(EndReason.ERROR, "it used more disk than its limit", message)
    if status.reason in _POD_REASONS:
        reason, what, blames = _POD_REASONS[status.reason]
        return _Cause(reason, what, message, blames)
    if _TOO_MANY in message:
        return _Cause(
            EndReason.BAD_SPEC,
            f"it asks for more than one share of a GPU ({status.reason})",
            message,
        )
    refused = status.reason in _REFUSALS or status.reason.startswith("OutOf")
    if refused or (
        dead.never_started and dead.ended is None
    ):  # the others are refusals that are new
        return _Cause(
            EndReason.INFRA, f"its node did not take its pod ({status.reason})", message, True
        )
    return None


def _by_container_reason(dead: Remains) -> _Cause | None:
    if dead.ended is None:
        return None
    reason, message = dead.ended.reason, dead.ended.message or ""
    if reason == "OOMKilled":
        return _Cause(
            EndReason.HOST_OOM, f"out of host memory: {dead.who} went over its memory limit"
        )
    if reason in NOT_STARTED and nodes_doing(message):
        return _Cause(EndReason.INFRA, f"its node could not start {dead.who}", message, True)
    if reason in NOT_STARTED:
        return _Cause(EndReason.BAD_SPEC, f"{dead.who} cannot be started", message)
    if (
        reason == LOST_TRACK and not dead.deleted
    ):  # of a deleted pod it says only that nobody looked in time
        return _Cause(EndReason.INFRA, f"its node lost track of {dead.who}", message, True)
    return None


def _by_deletion(dead: Remains) -> _Cause | None:
    if (
        not dead.deleted or dead.code in EXECUTORS_OWN
    ):  # which says more than a deletion that came along
        return None
    return _Cause(
        EndReason.POD_DELETED,
        "its pod was deleted" + (", and nobody saw its container end" if dead.runs else ""),
    )


def _by_exit_code(dead: Remains) -> _Cause | None:
    if dead.init and dead.ended:
        return _Cause(EndReason.INFRA, f"{dead.who} failed with exit code {dead.ended.exit_code}")
    if dead.code is None:
        return None
    said = explain(dead.code)
    return _Cause(said.reason, said.error, blames_node=dead.code == EXIT_DEVICE)


def _by_nothing(dead: Remains) -> _Cause:
    return _Cause(
        EndReason.INFRA,
        "its pod failed, and its status does not say why",
        dead.pod.status.message or "",
    )


_READINGS: Final[tuple[Callable[[Remains], _Cause | None], ...]] = (
    _by_success,
    _by_disruption,
    _by_pod_reason,
    _by_container_reason,
    _by_deletion,
    _by_exit_code,
    _by_nothing,
)
