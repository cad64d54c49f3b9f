"""Read the events of a pod: what its node meets, and whether an autoscaler adds one. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gpuqueue.launchers.kubernetes.api.answers import Event
from gpuqueue.launchers.kubernetes.status.read_status import PodStatusSummary
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason

#: Events of a kubelet, or of the controller of volumes, about a pod that it cannot prepare.
PROBLEMS: Final = frozenset(
    {
        "FailedMount",
        "FailedAttachVolume",
        "FailedMapVolume",
        "FailedCreatePodSandBox",
        "FailedCreatePodContainer",
        "FailedPrepareDynamicResources",
        "FailedSync",
        "NetworkNotReady",
        "FailedKillPod",
    }
)
#: Events after which the node has prepared the pod.
_PREPARED: Final = frozenset({"Pulling", "Pulled", "Created", "Started"})
#: What the pod names does not exist, and would be missing on every node.
_MISSING: Final = re.compile(
    r"not found|no runtime for|references non-existent|does not exist|is not a valid"
    r"|RuntimeHandler .* not supported|forbidden|unknown runtime",
    re.IGNORECASE,
)
#: The same words about something of the node itself.
_OF_NODE: Final = re.compile(
    r"network|\bcni\b|plugin|csi driver|driver name|sandbox .* not found|container .* not found"
    r"|no such device|device .* not found|context deadline|timed out|executable",
    re.IGNORECASE,
)
#: What an autoscaler says of a pod: a node comes, or it adds none.
_SCALING: Final = {
    "TriggeredScaleUp": True,  # cluster-autoscaler
    "Nominated": True,  # Karpenter
    "NotTriggerScaleUp": False,
}


def with_problem(summary: PodStatusSummary, events: Sequence[Event]) -> PodStatusSummary:
    """Return the status of a pod that its node prepares, with the latest problem of the node.

    ``events``: those of the pod, the oldest first.
    """
    latest = next((each for each in reversed(events) if each.reason in PROBLEMS | _PREPARED), None)
    if latest is None or latest.reason in _PREPARED:
        return summary
    message = " ".join((latest.message or "").split())
    missing = _MISSING.search(message) is not None and not _OF_NODE.search(message)
    return replace(
        summary,
        detail=f"{latest.reason}: {message}",
        clock="config_error" if missing else "sandbox_error",
        since=_first_problem(events),
        verdict=EndReason.BAD_SPEC if missing else EndReason.INFRA,
        holds=PlaceKind.PODS if missing else None,
    )


def _first_problem(events: Sequence[Event]) -> float | None:
    times = [each.first_seen for each in events if each.reason in PROBLEMS]
    return min((at for at in times if at is not None), default=None)


def says_why(summary: PodStatusSummary) -> bool:
    """Whether the status of a pod whose image is not pulled has the words of the registry.

    A kubelet before 1.31 repeats only that it waits.
    """
    return "ImagePullBackOff" not in summary.detail or "ErrImagePull" in summary.detail


def with_pull_error(summary: PodStatusSummary, events: Sequence[Event]) -> PodStatusSummary:
    """Return the status of a pod whose image is not pulled, with the words of the registry."""
    for each in reversed(events):
        message = " ".join((each.message or "").split())
        if each.reason == "Failed" and message.startswith("Failed to pull image"):
            return replace(summary, detail=f"{summary.detail}: {message}")
    return summary


def scaling_seconds(events: Sequence[Event], now: float) -> tuple[float, bool]:
    """Return for how long an autoscaler has been adding a node for a pod, in all, and whether it
    does at ``now``. The clock for its node stands still meanwhile.

    ``events``: those of the pod, the oldest first. ``now``: Unix seconds.
    """
    told = sorted(
        (at, _SCALING[each.reason])
        for each in events
        if each.reason in _SCALING and (at := each.last_seen) is not None
    )
    total, since = 0.0, None
    for at, scales in told:
        if scales and since is None:
            since = at
        elif not scales and since is not None:
            total, since = total + at - since, None
    return (total + max(0.0, now - since), True) if since is not None else (total, False)
