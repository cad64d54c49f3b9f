"""Why a job waits and why it ended: one vocabulary for ``why``, logs, metrics and errors."""

from __future__ import annotations

from enum import StrEnum


class WaitReason(StrEnum):
    """Why a job has not started yet."""

    NO_FREE_SLOT = "NO_FREE_SLOT"
    EXCLUSIVE_RUNNING = "EXCLUSIVE_RUNNING"
    SHARED_RUNNING = "SHARED_RUNNING"
    DRAINING_FOR_EXCLUSIVE = "DRAINING_FOR_EXCLUSIVE"
    BEHIND_OTHERS = "BEHIND_OTHERS"
    """A job of its isolation could start now, but others are ahead of it in line; or it is about to
    start.
    """
    TURN_OF_SHARED = "TURN_OF_SHARED"
    """The allowed number of exclusive jobs in a row has started while shared jobs waited."""
    REPAIRING = "REPAIRING"
    """No watcher has compared the slots with what runs yet: at the first start, or after a loss of
    Redis data.
    """
    TENANT_LIMIT = "TENANT_LIMIT"
    NOT_BEFORE = "NOT_BEFORE"
    UNSCHEDULABLE = "UNSCHEDULABLE"
    PULLING_IMAGE = "PULLING_IMAGE"
    STARTING = "STARTING"
    """It has its slot, and its executor is starting."""
    LAUNCH_REFUSED = "LAUNCH_REFUSED"
    """The API server refuses its Job at present; the dispatcher tries again."""
    QUOTA = "QUOTA"
    """The quota of the namespace has no room for it at present."""
    UNCONFIRMED = "UNCONFIRMED"
    """It was asked to end, and its node does not confirm the end: its slot stays taken."""


class EndReason(StrEnum):
    """Why a job, or one attempt at it, ended."""

    SUCCEEDED = "SUCCEEDED"
    ERROR = "ERROR"
    RETRIED = "RETRIED"
    """The task asked Celery for a retry: its next delivery continues."""
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


#: The infrastructure failed: a new attempt follows, up to the limit. Every other reason ends the
#: job.
TRY_AGAIN = frozenset(
    {EndReason.EVICTED, EndReason.PREEMPTED, EndReason.NODE_LOST, EndReason.INFRA}
)

#: The request of the job cannot be met: no new attempt follows, even if none has started.
NEVER_AGAIN = frozenset(
    {
        EndReason.IMAGE,
        EndReason.BAD_SPEC,
        EndReason.UNSCHEDULABLE,
        EndReason.QUOTA,
        EndReason.REJECTED,
    }
)

#: The unusable image contains the application: its code cannot run to finish the job.
NO_APPLICATION = frozenset({EndReason.IMAGE})
