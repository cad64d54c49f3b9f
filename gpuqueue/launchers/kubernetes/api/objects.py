"""Kubernetes objects as the API sends them, cut down to the fields that are read here. Pure.

The client's typed models cost 30 times and more of the time and memory. Fields that are not named
are skipped, absent and null ones have defaults: what a newer server adds or leaves out breaks
nothing. Times stay text until somebody asks (:func:`seconds`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from msgspec import Struct, field

#: The container that runs the attempt, in every pod of ours.
CONTAINER: Final = "executor"


def seconds(text: str | None) -> float | None:
    """Read a time of the API (RFC 3339, with or without a fraction) as Unix seconds.

    None where there is none: absent, null, unreadable, or the zero time that stands for "never"
    (years 1 and 1970).
    """
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.timestamp() if at.tzinfo and at.year > 1970 else None


class Decoded(Struct, frozen=True, gc=False, rename="camel"):
    """gc=False: what is decoded from JSON is a tree, so that no cycle can ever hold it."""


class Meta(Decoded, frozen=True):
    """``metadata`` of any object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    """When the grace ends, not when deletion was asked: see :attr:`deletion_asked`."""
    deletion_grace_period_seconds: float | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None

    @property
    def deletion_asked(self) -> float | None:
        """When somebody asked for the deletion, in Unix seconds; None: nobody has (or at an unknown
        time).
        """
        ends = seconds(self.deletion_timestamp)
        return ends if ends is None else ends - (self.deletion_grace_period_seconds or 0)


class Condition(Decoded, frozen=True):
    """One of a Pod's or a Job's ``status.conditions``."""

    type: str = ""
    status: str = ""
    reason: str | None = None
    message: str | None = None
    last_transition_time: str | None = None


class _Conditions(Decoded, frozen=True):
    conditions: tuple[Condition, ...] | None = None

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type, whatever its status."""
        for condition in self.conditions or ():
            if condition.type == kind:
                return condition
        return None


class Waiting(Decoded, frozen=True):
    """The state of a container that does not run yet."""

    reason: str | None = None
    message: str | None = None


class Running(Decoded, frozen=True):
    """The state of a container that runs, as far as its kubelet has told."""

    started_at: str | None = None


class Terminated(Decoded, frozen=True):
    """The state of a container that has ended."""

    exit_code: int = 0
    reason: str | None = None
    message: str | None = None
    started_at: str | None = None
    finished_at: str | None = None


class ContainerState(Decoded, frozen=True):
    """One of the three, or none: then the container waits."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Decoded, frozen=True):
    """One of ``status.containerStatuses`` or ``initContainerStatuses``."""

    name: str = ""
    state: ContainerState | None = None
    last_state: ContainerState | None = None
    container_id: str | None = field(default=None, name="containerID")

    @property
    def waiting(self) -> Waiting | None:
        """Set iff it has not started; a state that says nothing is that of a container that waits."""
        state = self.state
        if state is None or (state.running is None and state.terminated is None):
            return (state and state.waiting) or _WAITING
        return None

    @property
    def running(self) -> Running | None:
        """Set iff it runs, as far as its kubelet has told."""
        return self.state.running if self.state else None

    @property
    def terminated(self) -> Terminated | None:
        """Set iff it has ended."""
        return self.state.terminated if self.state else None


_WAITING: Final = Waiting()


class PodSpec(Decoded, frozen=True):
    """``spec`` of a Pod."""

    node_name: str | None = None


class PodStatus(_Conditions, frozen=True):
    """``status`` of a Pod."""

    phase: str | None = None
    reason: str | None = None
    message: str | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None


class Pod(Decoded, frozen=True):
    """A Pod."""

    metadata: Meta = Meta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class JobStatus(_Conditions, frozen=True):
    """``status`` of a Job; the counts are of its pods."""

    active: int | None = None
    failed: int | None = None
    succeeded: int | None = None


class Job(Decoded, frozen=True):
    """A Job."""

    metadata: Meta = Meta()
    status: JobStatus = JobStatus()
