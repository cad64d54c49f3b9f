"""Why a job waits, and why it ended: the same words in ``why``, logs, metrics and errors."""

from __future__ import annotations

from enum import StrEnum


class WaitReason(StrEnum):
    """Why a job that has not started has not started."""

    NO_FREE_SLOT = "NO_FREE_SLOT"
    EXCLUSIVE_RUNNING = "EXCLUSIVE_RUNNING"
    SHARED_RUNNING = "SHARED_RUNNING"
    DRAINING_FOR_EXCLUSIVE = "DRAINING_FOR_EXCLUSIVE"
    BEHIND_OTHERS = "BEHIND_OTHERS"
    """Its isolation could start a job now, and others are ahead of it in line (or it is about to
    start).
    """
    TURN_OF_SHARED = "TURN_OF_SHARED"
    """Enough exclusive jobs in a row have started while shared ones waited (shared_patience)."""
    REPAIRING = "REPAIRING"
    """No watcher has yet compared the slots with what really runs: at the very start, or after a
    loss of Redis.
    """
    TENANT_LIMIT = "TENANT_LIMIT"
    NOT_BEFORE = "NOT_BEFORE"
    UNSCHEDULABLE = "UNSCHEDULABLE"
    PULLING_IMAGE = "PULLING_IMAGE"
    STARTING = "STARTING"
    """It has its slot; its executor is being started."""
    LAUNCH_REFUSED = "LAUNCH_REFUSED"
    """The cluster's API does not take its Job at present; it is tried again."""
    QUOTA = "QUOTA"
    """The namespace's quota does not admit it at present."""
    UNCONFIRMED = "UNCONFIRMED"
    """It was told to end, and its node does not say that it has: its slot stays taken."""


class EndReason(StrEnum):
    """Why a job, or one attempt at it, ended."""

    SUCCEEDED = "SUCCEEDED"
    ERROR = "ERROR"
    RETRIED = "RETRIED"
    """The task asked Celery for a retry: its next delivery goes on."""
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


#: The infrastructure's fault: a new attempt is made, up to the limit. Every other reason ends the
#: job.
TRY_AGAIN = frozenset(
    {EndReason.EVICTED, EndReason.PREEMPTED, EndReason.NODE_LOST, EndReason.INFRA}
)

#: What the job asks for cannot be had: not even an attempt that never started is made again.
NEVER_AGAIN = frozenset(
    {
        EndReason.IMAGE,
        EndReason.BAD_SPEC,
        EndReason.UNSCHEDULABLE,
        EndReason.QUOTA,
        EndReason.REJECTED,
    }
)

#: The application's code is in the image that cannot be had: nothing of it can run to finish the
#: job.
NO_APPLICATION = frozenset({EndReason.IMAGE})
