"""What a Pod's status means for its attempt: its phase, what it waits for, which clock runs, and
how it ended. Pure.

The rule of the slot: an attempt has ended when its container has, or when the control plane has
given its pod up (phase Succeeded or Failed, or DELETED). Neither a deletion that was asked for nor
a node that fell silent ends it: the GPU may be busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gpuqueue.launchers.kubernetes.api.objects import (
    CONTAINER,
    Condition,
    ContainerStatus,
    Pod,
    Waiting,
    seconds,
)
from gpuqueue.launchers.kubernetes.status.ends import end_of, nodes_doing
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason, WaitReason


class Phase(StrEnum):
    """Where an attempt's pod is on its way."""

    UNSCHEDULED = "UNSCHEDULED"
    PREPARING = "PREPARING"
    """It has its node; image, volumes, configuration and init containers come before its container.
    """
    RUNNING = "RUNNING"
    TERMINATING = "TERMINATING"
    """It was told to end. Its container may still run, or be seen to."""
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a pod. ``end`` is set if, and only if, its phase is ENDED."""

    phase: Phase
    wait: WaitReason | None = None
    """Why its executor does not run yet."""
    detail: str = ""
    """The scheduler's or kubelet's own words, "" if there are none."""
    clock: str | None = None
    """The clock that runs: unschedulable, image_pull, image_error, config_error or terminating;
    None: none of these.
    """
    since: float | None = None
    """From when it counts, in Unix seconds by the API's own clock: a new watcher goes on where the
    old one was.

    None: a status has no time for it (image_error and config_error); it counts from when it was
    first seen.
    """
    verdict: EndReason | None = None
    """How the attempt ends when the clock runs out; None: it does not, its slot stays taken."""
    at_once: bool = False
    """Whether to give no grace: it can never work."""
    end: End | None = None
    node: str = ""


#: Waiting reasons of a container whose turn comes.
_ON_THE_WAY: Final = frozenset({"", "ContainerCreating", "PodInitializing"})
#: Waiting reasons that are the image's, beside all with "Image" in them. The others are the
#: container's configuration's.
_IMAGE_ERRORS: Final = frozenset({"RegistryUnavailable", "SignatureValidationFailed"})
#: No later try can end otherwise.
_HOPELESS: Final = frozenset({"InvalidImageName", "ErrImageNeverPull"})


def observe(pod: Pod, *, deleted: bool = False) -> Seen:
    """Read a pod's status. ``deleted``: the API has sent DELETED for it. Never raises."""
    node = pod.spec.node_name or ""
    if deleted or _has_ended(pod):
        return Seen(Phase.ENDED, end=end_of(pod, deleted=deleted), node=node)
    if pod.metadata.deletion_timestamp:
        target = pod.status.condition("DisruptionTarget")
        detail = (target.message or "") if target and target.status == "True" else ""
        return Seen(
            Phase.TERMINATING, None, detail, "terminating", pod.metadata.deletion_asked, node=node
        )
    if _runs(pod):
        return Seen(Phase.RUNNING, node=node)
    return _preparing(pod, node) if node else _unscheduled(pod)


def overdue(seen: Seen, limit: float) -> End:
    """How an attempt ends whose clock ran out after ``limit`` seconds. Raises ValueError where the
    clock has no verdict.
    """
    if seen.verdict is None or seen.clock is None:
        raise ValueError(f"{seen.phase}: no clock ends it")
    what = {
        "unschedulable": f"no node took its pod within {limit:g} s",
        "image_pull": (
            f"its container was not ready to start within {limit:g} s (image, volumes, init"
            " containers)"
        ),
        "image_error": "its image cannot be had",
        "config_error": "its container cannot be made",
    }[seen.clock]
    text = (
        what
        + (f": {seen.detail}" if seen.detail else "")
        + (f" (node {seen.node})" if seen.node else "")
    )
    evidence = {"node": seen.node} if seen.node else {}
    return End(seen.verdict, text, seen.node if seen.verdict is EndReason.INFRA else "", evidence)


def _has_ended(pod: Pod) -> bool:
    if pod.status.phase in (
        "Succeeded",
        "Failed",
    ):  # a kubelet says so only when all containers have ended
        return True
    told = _executors(pod)
    return bool(told) and all(each.terminated for each in told)


def _runs(pod: Pod) -> bool:
    told = _executors(pod)
    return any(each.running for each in told) if told else pod.status.phase == "Running"


def _executors(pod: Pod) -> Sequence[ContainerStatus]:
    """The executor's status, or those of all containers where none has its name."""
    containers = pod.status.container_statuses or ()
    return [each for each in containers if each.name == CONTAINER] or containers


def _unscheduled(pod: Pod) -> Seen:
    condition = pod.status.condition("PodScheduled")
    return Seen(
        Phase.UNSCHEDULED,
        (
            WaitReason.UNSCHEDULABLE if condition else WaitReason.STARTING
        ),  # no scheduler has looked at it yet
        (condition.message or condition.reason or "") if condition else "",
        "unschedulable",
        _since(condition, pod),
        EndReason.UNSCHEDULABLE,
    )


def _preparing(pod: Pod, node: str) -> Seen:
    """Read a pod that has its node: what is wrong with one of its containers, or else how far it
    is.
    """
    inits = pod.status.init_container_statuses or ()
    for each in (*inits, *_executors(pod)):
        if each.waiting and (each.waiting.reason or "") not in _ON_THE_WAY:
            return _stuck(each.name, each.waiting, node)
    since = _since(pod.status.condition("PodScheduled"), pod)
    initialized = pod.status.condition("Initialized")
    if inits and initialized and initialized.status == "True":  # those that still run are sidecars
        since = _later(since, initialized.last_transition_time)
    else:
        for each in inits:
            if each.running:
                since = _later(since, each.running.started_at)
                detail = f"its init container {each.name} runs"
                return Seen(
                    Phase.PREPARING,
                    WaitReason.STARTING,
                    detail,
                    "image_pull",
                    since,
                    EndReason.INFRA,
                    node=node,
                )
    return Seen(
        Phase.PREPARING,
        WaitReason.PULLING_IMAGE,
        "",
        "image_pull",
        since,
        EndReason.IMAGE,
        node=node,
    )


def _stuck(container: str, waiting: Waiting, node: str) -> Seen:
    reason, message = waiting.reason or "", waiting.message or ""
    if "Image" in reason or reason in _IMAGE_ERRORS:
        wait, clock, verdict = WaitReason.PULLING_IMAGE, "image_error", EndReason.IMAGE
    else:
        wait, clock = WaitReason.STARTING, "config_error"
        verdict = EndReason.INFRA if nodes_doing(message) else EndReason.BAD_SPEC
    detail = ": ".join(
        part for part in (container if container != CONTAINER else "", reason, message) if part
    )
    return Seen(Phase.PREPARING, wait, detail, clock, None, verdict, reason in _HOPELESS, node=node)


def _since(condition: Condition | None, pod: Pod) -> float | None:
    since = seconds(condition.last_transition_time) if condition else None
    return seconds(pod.metadata.creation_timestamp) if since is None else since


def _later(since: float | None, text: str | None) -> float | None:
    return max((at for at in (since, seconds(text)) if at is not None), default=None)
