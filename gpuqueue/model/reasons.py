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
    NODE_SET_ASIDE = "NODE_SET_ASIDE"
    """Nodes have failed jobs and are set aside, and no other node has room for its pod; or the
    pause before its next attempt, elsewhere."""
    NOT_BEFORE = "NOT_BEFORE"
    REQUEUED = "REQUEUED"
    """It goes back into line after a pause, since its task has rejected its message."""
    UNSCHEDULABLE = "UNSCHEDULABLE"
    PULLING_IMAGE = "PULLING_IMAGE"
    IMAGE = "IMAGE"
    """Its image cannot be pulled at present (its registry is away, or refuses the credentials); one
    job tries it after a pause.
    """
    STARTING = "STARTING"
    """It has a slot; its executor is starting."""
    LAUNCH_REFUSED = "LAUNCH_REFUSED"
    """The cluster refuses its Job, its pod, or what its pod needs (a volume, a Secret) for now; one
    job tries it after a pause.
    """
    QUOTA = "QUOTA"
    """The quota of the namespace does not admit its pod for now."""
    SUSPENDED = "SUSPENDED"
    """Another controller holds its Job or its pod back: by suspend, managedBy or scheduling gates.
    """
    NODE_SILENT = "NODE_SILENT"
    """The node of its pod does not answer: its slot stays taken."""
    UNCONFIRMED = "UNCONFIRMED"
    """It should have ended, but its node does not confirm that: its slot stays taken."""


class EndReason(StrEnum):
    """Why a job, or one attempt at it, ended."""

    SUCCEEDED = "SUCCEEDED"
    ERROR = "ERROR"
    RETRIED = "RETRIED"
    """The task asked Celery for a retry: its next delivery continues the job."""
    IGNORED = "IGNORED"
    """The task raised Ignore, or a Reject for which Celery writes no result."""
    REQUEUED = "REQUEUED"
    """The task raised Reject(requeue=True): another attempt follows. Of attempts alone."""
    ESCALATED = "ESCALATED"
    """The GPU ran out of memory, and the job runs once more in a larger place. Of attempts, and of
    jobs in the class that they left.
    """
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


#: The cluster took the pod away. A new attempt follows, up to another limit.
DISRUPTIONS = frozenset({EndReason.EVICTED, EndReason.PREEMPTED, EndReason.NODE_LOST})
#: What scripts note of nodes: why a job waits for one that is set aside, how a pod ends that found
#: no room beside it, and how an attempt ends whose node is lost.
OF_NODES = {
    "aside": WaitReason.NODE_SET_ASIDE.value,
    "no_room": EndReason.UNSCHEDULABLE.value,
    "lost": EndReason.NODE_LOST.value,
}
#: Faults of the infrastructure: a new attempt follows, up to the limit. Every other reason ends the
#: job.
TRY_AGAIN = DISRUPTIONS | {EndReason.INFRA}

#: Ends whose attempt was in vain, through no fault of the job: what it cost is waste.
WASTED = TRY_AGAIN | {EndReason.POD_DELETED}

#: An attempt that may have ended without a word: its slot stays taken.
SILENT = frozenset({WaitReason.NODE_SILENT, WaitReason.UNCONFIRMED})

#: The process was lost, and the task with it: the application may have its jobs run again.
LOST = frozenset({EndReason.ERROR, EndReason.HOST_OOM, EndReason.POD_DELETED})
#: What the application wants then (see the field ``if_lost`` of a record).
LOST_REQUEUE, LOST_RETRY = "requeue", "retry"

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
