"""Kubernetes objects, reduced to the fields that gpuqueue reads. Pure.

The typed models of the client cost over 30 times the time and memory. Unknown fields are skipped,
and absent or null ones have defaults, so fields that a newer server adds or omits break nothing.
Times stay text until a caller converts them (:func:`seconds`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from msgspec import Struct

#: Name of the container that runs the attempt, in every pod of gpuqueue.
CONTAINER: Final = "executor"


def seconds(text: str | None) -> float | None:
    """Convert a time of the API (RFC 3339, with or without a fraction) to Unix seconds.

    Returns None if it is absent, null, invalid, or the zero time that means "never" (years 1 and
    1970).
    """
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.timestamp() if at.tzinfo and at.year > 1970 else None


class Decoded(Struct, frozen=True, gc=False, rename="camel"):
    """Base of decoded objects. gc=False: objects from JSON are trees and never form cycles."""


class Meta(Decoded, frozen=True):
    """``metadata`` of any object."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    """End of the grace period. The time of the request is :attr:`deletion_requested`."""
    deletion_grace_period_seconds: float | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: tuple[str, ...] | None = None
    """What must be removed before a deleted object goes."""

    @property
    def deletion_requested(self) -> float | None:
        """Time of the deletion request in Unix seconds; None: not requested, or unknown."""
        ends = seconds(self.deletion_timestamp)
        return ends if ends is None else ends - (self.deletion_grace_period_seconds or 0)


class Condition(Decoded, frozen=True):
    """An item of ``status.conditions`` of a Pod or a Job."""

    type: str = ""
    status: str = ""
    reason: str | None = None
    message: str | None = None
    last_transition_time: str | None = None


class _Conditions(Decoded, frozen=True):
    conditions: tuple[Condition, ...] | None = None

    def condition(self, kind: str) -> Condition | None:
        """Return the condition of a type, with any status."""
        for condition in self.conditions or ():
            if condition.type == kind:
                return condition
        return None


class Waiting(Decoded, frozen=True):
    """The state of a container before it runs."""

    reason: str | None = None
    message: str | None = None


class Running(Decoded, frozen=True):
    """The state of a running container, by the last report of its kubelet."""

    started_at: str | None = None


class Terminated(Decoded, frozen=True):
    """The state of an ended container."""

    exit_code: int = 0
    reason: str | None = None
    message: str | None = None
    started_at: str | None = None
    finished_at: str | None = None


class ContainerState(Decoded, frozen=True):
    """At most one of the three is set. Without any, the container waits."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(Decoded, frozen=True):
    """An item of ``status.containerStatuses`` or ``initContainerStatuses``."""

    name: str = ""
    state: ContainerState | None = None
    last_state: ContainerState | None = None

    @property
    def waiting(self) -> Waiting | None:
        """Set only before the start. An empty state means a waiting container."""
        state = self.state
        if state is None or (state.running is None and state.terminated is None):
            return (state and state.waiting) or _WAITING
        return None

    @property
    def running(self) -> Running | None:
        """Set only while it runs, by the last report of its kubelet."""
        return self.state.running if self.state else None

    @property
    def terminated(self) -> Terminated | None:
        """Set only after its end."""
        return self.state.terminated if self.state else None


_WAITING: Final = Waiting()


class Gate(Decoded, frozen=True):
    """An item of ``spec.schedulingGates`` of a Pod."""

    name: str = ""


class Toleration(Decoded, frozen=True):
    """An item of ``spec.tolerations`` of a Pod, with the default ones and those of webhooks."""

    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""

    def as_given(self) -> dict[str, str]:
        """Return it as in a manifest."""
        return {
            "key": self.key,
            "operator": self.operator,
            "value": self.value,
            "effect": self.effect,
        }


class PodSpec(Decoded, frozen=True):
    """``spec`` of a Pod."""

    node_name: str | None = None
    tolerations: tuple[Toleration, ...] | None = None
    scheduling_gates: tuple[Gate, ...] | None = None
    termination_grace_period_seconds: float | None = None


class PodStatus(_Conditions, frozen=True):
    """``status`` of a Pod."""

    phase: str | None = None
    reason: str | None = None
    message: str | None = None
    start_time: str | None = None
    """When the kubelet of its node took the pod; None: it has not."""
    container_statuses: tuple[ContainerStatus, ...] | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None


class Pod(Decoded, frozen=True):
    """A Pod."""

    metadata: Meta = Meta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class JobStatus(_Conditions, frozen=True):
    """``status`` of a Job, with counts of its pods."""

    active: int | None = None
    failed: int | None = None
    succeeded: int | None = None
    start_time: str | None = None
    completion_time: str | None = None

    @property
    def ended(self) -> Condition | None:
        """The condition that says that the Job has ended; None: it has not."""
        for condition in self.conditions or ():
            if condition.type in ("Complete", "Failed") and condition.status == "True":
                return condition
        return None


class JobSpec(Decoded, frozen=True):
    """``spec`` of a Job."""

    suspend: bool | None = None
    managed_by: str | None = None


class Job(Decoded, frozen=True):
    """A Job."""

    metadata: Meta = Meta()
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()
