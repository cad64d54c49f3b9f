"""The last state of an ended pod: deciding container, exit code, times, last output. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gpuqueue.launchers.kubernetes.api.objects import (
    CONTAINER,
    ContainerStatus,
    Pod,
    Terminated,
    seconds,
)
from gpuqueue.model.ends import EXIT_OK

#: Characters kept from the end of a log, and from the start of a server message.
MOST_TEXT: Final = 2048
#: Reasons of a container that ended before it ran. The message comes from the runtime, not a log.
NOT_STARTED: Final = frozenset({"StartError", "ContainerCannotRun"})
#: Reason of a container whose end the kubelet missed, and so made up exit code and message.
LOST_TRACK: Final = "ContainerStatusUnknown"
#: Reason and exit code that containerd makes up for a container that it finds dead when it starts:
#: its machine has restarted.
_DEAD_AT_RESTART: Final = ("Unknown", 255)


def silent_since(pod: Pod) -> float | None:
    """Return since when the node of a pod has been silent, as its controller has marked the pod.

    A kubelet gives a reason with each False.
    """
    ready, containers = pod.status.condition("Ready"), pod.status.condition("ContainersReady")
    if ready is None or ready.status != "False" or ready.reason:
        return None
    if containers is None or containers.status != "True":
        return None
    since = seconds(ready.last_transition_time)
    return seconds(pod.metadata.creation_timestamp) or 0.0 if since is None else since


def is_lost(ended: Terminated) -> bool:
    """Whether kubelet or runtime missed how a container ended, and made up its exit code."""
    return ended.reason == LOST_TRACK or (ended.reason, ended.exit_code) == _DEAD_AT_RESTART


@dataclass(frozen=True, slots=True)
class LastState:
    """The last state of a pod that has ended.

    ``deleted``: its deletion was requested. ``init``: the deciding container is an init container.
    """

    pod: Pod
    deleted: bool
    container: ContainerStatus | None
    """The deciding container: the executor, or an init container whose failure kept the executor
    from starting. None: the pod has no container status.
    """
    init: bool

    @classmethod
    def of(cls, pod: Pod, *, deleted: bool = False) -> LastState:
        """Find the deciding container. ``deleted``: the API has sent DELETED for the pod."""
        deleted = deleted or bool(pod.metadata.deletion_timestamp)
        containers = pod.status.container_statuses or ()
        named = [each for each in containers if each.name == CONTAINER] or containers
        failed = [each for each in named if each.terminated and each.terminated.exit_code]
        one = next(iter(failed or named), None)
        if one is None or one.waiting:
            for init in pod.status.init_container_statuses or ():
                if init.terminated and init.terminated.exit_code:
                    return cls(pod, deleted, init, True)
        return cls(pod, deleted, one, False)

    @property
    def node(self) -> str:
        """Its node, or ""."""
        return self.pod.spec.node_name or ""

    @property
    def who(self) -> str:
        """The deciding container, for messages."""
        return (
            f"its init container {self.container.name}"
            if self.init and self.container
            else "its container"
        )

    @property
    def ended(self) -> Terminated | None:
        """How the deciding container ended; None: unknown, or it never started."""
        return self.container.terminated if self.container else None

    @property
    def runs(self) -> bool:
        """Whether the last report of the executor is that it runs."""
        return not self.init and self.container is not None and self.container.running is not None

    @property
    def node_silent(self) -> bool:
        """Whether the control plane had marked the pod, since its node was silent."""
        return silent_since(self.pod) is not None

    @property
    def code(self) -> int | None:
        """Exit code of the executor; None: unknown."""
        if self.init or self.ended is None:
            return EXIT_OK if self.pod.status.phase == "Succeeded" else None
        return None if is_lost(self.ended) else self.ended.exit_code

    @property
    def started(self) -> float | None:
        """Start of the executor in Unix seconds."""
        if self.init or self.container is None:
            return None
        states = (self.container.running, self.ended, self._before)
        return next(
            (at for state in states if state and (at := seconds(state.started_at)) is not None),
            None,
        )

    @property
    def never_started(self) -> bool:
        """Whether the executor certainly did not run.

        A lost container may have run, unless its pod was being deleted.
        """
        if self.runs or self.started is not None or self._before:
            return False
        if self.init or self.ended is None:
            return self.pod.status.phase != "Succeeded"
        return self.ended.reason in NOT_STARTED or (
            self.ended.reason == LOST_TRACK and self.deleted
        )

    @property
    def last_output(self) -> str:
        """The termination message or, if the container failed without one, the end of its log.

        At most MOST_TEXT characters.
        """
        if self.ended is None or self.ended.reason in NOT_STARTED or is_lost(self.ended):
            return ""
        text = (self.ended.message or "").strip()
        return text if len(text) <= MOST_TEXT else "…" + text[1 - MOST_TEXT :]

    def facts(self) -> list[str]:
        """Return the facts that an error message adds in parentheses."""
        return [
            *([f"exit code {self.code}"] if self.code is not None else []),
            *([self.ended.reason] if self.ended and self.ended.reason else []),
            *(["its container never started"] if self.never_started else []),
            *([f"node {self.node}"] if self.node else []),
        ]

    def evidence(self) -> dict[str, Any]:
        """Return the evidence for :class:`gpuqueue.model.ends.End`, without unknown fields."""
        scheduled = self.pod.status.condition("PodScheduled")
        ended = None if self.init else self.ended
        known = {
            "exit_code": self.code,
            "node": self.node or None,
            "pod": self.pod.metadata.name or None,
            "container_reason": ended and (ended.reason or None),
            "container_started": self.started,
            "container_finished": ended and seconds(ended.finished_at),
            "scheduled": seconds(scheduled.last_transition_time)
            if scheduled and scheduled.status == "True"
            else None,
        }
        return {name: value for name, value in known.items() if value is not None}

    @property
    def _before(self) -> Terminated | None:
        """How the container ended on its previous run, or on the run that the kubelet missed."""
        return (
            self.container.last_state.terminated
            if self.container and self.container.last_state
            else None
        )
