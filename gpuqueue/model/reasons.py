"""Why a job waits, and why it ended: the same words in ``why``, logs, metrics and errors."""

from __future__ import annotations

from enum import StrEnum


class WaitReason(StrEnum):
    """Why a job has not started, or why its attempt does not run or end."""

    NO_FREE_SLOT = "NO_FREE_SLOT"
    EXCLUSIVE_RUNNING = "EXCLUSIVE_RUNNING"
    SHARED_RUNNING = "SHARED_RUNNING"
    DRAINING_FOR_EXCLUSIVE = "DRAINING_FOR_EXCLUSIVE"
    BEHIND_OTHERS = "BEHIND_OTHERS"
    """Its isolation could start a job now, but other jobs are ahead of it in line (or it is about
    to start).
    """
    TURN_OF_SHARED = "TURN_OF_SHARED"
    """Enough exclusive jobs in a row have started while shared ones waited (shared_patience)."""
    REPAIRING = "REPAIRING"
    """No watcher has compared the slots with the running attempts yet: at the very start, or after
    Redis has lost its data.
    """
    TENANT_LIMIT = "TENANT_LIMIT"
    NO_DISPATCHER = "NO_DISPATCHER"
    """No live dispatcher serves its class."""
    DEVICE_SET_ASIDE = "DEVICE_SET_ASIDE"
    """A slot is free, but its GPU has failed several jobs and is set aside; one job tries it after
    a pause.
    """
    HOST_SET_ASIDE = "HOST_SET_ASIDE"
    """No executor could start on the machine for several jobs; one job tries it after a pause."""
    APPLICATION_HELD = "APPLICATION_HELD"
    """Its application cannot be loaded; one job tries it after a pause."""
    NOT_BEFORE = "NOT_BEFORE"
    UNSCHEDULABLE = "UNSCHEDULABLE"
    PULLING_IMAGE = "PULLING_IMAGE"
    STARTING = "STARTING"
    """It has a slot; its executor is starting."""
    LAUNCH_REFUSED = "LAUNCH_REFUSED"
    """The Kubernetes API refuses its Job for now; the launch is retried."""
    QUOTA = "QUOTA"
    """The quota of the namespace does not admit its pod for now."""
    UNCONFIRMED = "UNCONFIRMED"
    """It should have ended, but its node does not confirm that: its slot stays taken."""


class EndReason(StrEnum):
    """Why a job, or one attempt at it, ended."""

    SUCCEEDED = "SUCCEEDED"
    ERROR = "ERROR"
    RETRIED = "RETRIED"
    """The task asked Celery for a retry: its next delivery continues the job."""
    IGNORED = "IGNORED"
    """The task raised Ignore or Reject: Celery writes no result."""
    GPU_OOM = "GPU_OOM"
    HOST_OOM = "HOST_OOM"
    TIME_LIMIT = "TIME_LIMIT"
    IMAGE = "IMAGE"
    BAD_SPEC = "BAD_SPEC"
    UNSCHEDULABLE = "UNSCHEDULABLE"
    QUOTA = "QUOTA"
    EVICTED = "EVICTED"
    PREEMPTED = "PREEMPTED"
    NODE_LOST = "NODE_LOST"
    POD_DELETED = "POD_DELETED"
    INFRA = "INFRA"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"


#: Faults of the infrastructure: a new attempt follows, up to the limit. Every other reason ends the
#: job.
TRY_AGAIN = frozenset(
    {EndReason.EVICTED, EndReason.PREEMPTED, EndReason.NODE_LOST, EndReason.INFRA}
)

#: The request cannot be met: no new attempt follows, even if this one never started.
NEVER_AGAIN = frozenset(
    {
        EndReason.IMAGE,
        EndReason.BAD_SPEC,
        EndReason.UNSCHEDULABLE,
        EndReason.QUOTA,
        EndReason.REJECTED,
    }
)

#: The application's code is in the image that cannot be used, so none of it can finish the job.
NO_APPLICATION = frozenset({EndReason.IMAGE})
