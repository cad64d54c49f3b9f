"""What is left of a pod that has ended: which container tells, its exit code, its times, its last
words. Pure.
"""

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

#: Characters kept of a log, from its end, and of a server's words, from their start.
MOST_TEXT: Final = 2048
#: Reasons of a container that ended before it ran. Its message is the runtime's, not a log.
NOT_STARTED: Final = frozenset({"StartError", "ContainerCannotRun"})
#: The reason of a container whose end the kubelet missed: exit code and message are the kubelet's
#: own.
LOST_TRACK: Final = "ContainerStatusUnknown"


@dataclass(frozen=True, slots=True)
class Remains:
    """A pod that has ended. ``deleted``: somebody deleted it; ``init``: the container that tells is
    an init container.
    """

    pod: Pod
    deleted: bool
    container: ContainerStatus | None
    """The executor, or the init container for whose failure it never started; None: the pod has no
    status of any.
    """
    init: bool

    @classmethod
    def of(cls, pod: Pod, *, deleted: bool = False) -> Remains:
        """Find the container that tells. ``deleted``: the API has sent DELETED for the pod."""
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
        """The container that tells, in words."""
        return (
            f"its init container {self.container.name}"
            if self.init and self.container
            else "its container"
        )

    @property
    def ended(self) -> Terminated | None:
        """How that container ended; None: nobody saw it end, or it never started."""
        return self.container.terminated if self.container else None

    @property
    def runs(self) -> bool:
        """Whether the last that was heard of the executor is that it runs."""
        return not self.init and self.container is not None and self.container.running is not None

    @property
    def code(self) -> int | None:
        """The executor's exit code; None where nobody saw it."""
        if self.init or self.ended is None:
            return EXIT_OK if self.pod.status.phase == "Succeeded" else None
        return None if self.ended.reason == LOST_TRACK else self.ended.exit_code

    @property
    def started(self) -> float | None:
        """When the executor started, in Unix seconds."""
        if self.init or self.container is None:
            return None
        states = (self.container.running, self.ended, self._before)
        return next(
            (at for state in states if state and (at := seconds(state.started_at)) is not None),
            None,
        )

    @property
    def never_started(self) -> bool:
        """Whether the executor is known not to have run. A lost container may have, unless its pod
        was being deleted.
        """
        if self.runs or self.started is not None or self._before:
            return False
        if self.init or self.ended is None:
            return self.pod.status.phase != "Succeeded"
        return self.ended.reason in NOT_STARTED or (
            self.ended.reason == LOST_TRACK and self.deleted
        )

    @property
    def last_words(self) -> str:
        """The termination message or, if the container failed without one, the end of its log: at
        most MOST_TEXT characters.
        """
        if (
            self.ended is None
            or self.ended.reason in NOT_STARTED
            or self.ended.reason == LOST_TRACK
        ):
            return ""
        text = (self.ended.message or "").strip()
        return text if len(text) <= MOST_TEXT else "…" + text[1 - MOST_TEXT :]

    def facts(self) -> list[str]:
        """What an error adds in brackets."""
        return [
            *([f"exit code {self.code}"] if self.code is not None else []),
            *([self.ended.reason] if self.ended and self.ended.reason else []),
            *(["its container never started"] if self.never_started else []),
            *([f"node {self.node}"] if self.node else []),
        ]

    def evidence(self) -> dict[str, Any]:
        """What :class:`gpuqueue.model.ends.End` keeps: only what is known."""
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
        """How the container ended the time before, or the time that the kubelet missed."""
        return (
            self.container.last_state.terminated
            if self.container and self.container.last_state
            else None
        )
