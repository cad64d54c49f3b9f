"""A sentence for each reason. The typed reason is always shown beside it."""

from __future__ import annotations

from gpuqueue.model.reasons import EndReason, WaitReason

WAITS: dict[str, str] = {
    WaitReason.NO_FREE_SLOT: "fewer slots of its isolation are free than the first in line needs",
    WaitReason.EXCLUSIVE_RUNNING: (
        "an exclusive job is running; shared jobs start when it has ended"
    ),
    WaitReason.SHARED_RUNNING: (
        "shared jobs are running; an exclusive job starts when they have ended"
    ),
    WaitReason.DRAINING_FOR_EXCLUSIVE: (
        "the gate is closed: an exclusive job was overtaken as often as allowed and starts next"
    ),
    WaitReason.REPAIRING: (
        "the watcher has not compared the slots with the running jobs yet; a dispatcher does so"
        " when it starts"
    ),
    WaitReason.BEHIND_OTHERS: (
        "a slot is free, but other jobs are ahead in line (or this one is about to start)"
    ),
    WaitReason.TURN_OF_SHARED: "enough exclusive jobs have run in a row; shared jobs are next",
    WaitReason.TENANT_LIMIT: "its tenant has reached its limit of running jobs",
    WaitReason.NO_DISPATCHER: (
        "no live dispatcher serves its class: start one with this class, or cancel the job"
    ),
    WaitReason.DEVICE_SET_ASIDE: (
        "a slot is free, but its GPU failed several jobs and is set aside; one job tries it after a"
        " pause (`gpuqueue places`)"
    ),
    WaitReason.HOST_SET_ASIDE: (
        "the executors of several jobs could not start on this machine; one job tries it after a"
        " pause (`gpuqueue places`)"
    ),
    WaitReason.APPLICATION_HELD: (
        "its application cannot be loaded; one job tries it after a pause (`gpuqueue places`)"
    ),
    WaitReason.NODE_SET_ASIDE: (
        "nodes failed jobs and are set aside, and no other node has room for it at present; one"
        " job tries each after a pause (`gpuqueue places`)"
    ),
    WaitReason.NOT_BEFORE: "it waits for its eta, or for the pause before its next attempt",
    WaitReason.REQUEUED: (
        "its task asked to be delivered again (Reject with requeue=True, or"
        " reject_on_worker_lost); it goes back into line after a pause"
    ),
    WaitReason.UNSCHEDULABLE: "no node has room for it at present",
    WaitReason.PULLING_IMAGE: "its image is being pulled",
    WaitReason.IMAGE: (
        "its image cannot be pulled at present; one job tries it after a pause (`gpuqueue places`)"
    ),
    WaitReason.STARTING: "it has a slot, and its executor is starting",
    WaitReason.LAUNCH_REFUSED: (
        "the cluster refuses its Job, its pod, or what its pod needs at present; one job tries it"
        " after a pause (`gpuqueue places`)"
    ),
    WaitReason.QUOTA: (
        "the namespace's quota has no room for it at present; one job tries it when another ends,"
        " or after a pause (`gpuqueue places`)"
    ),
    WaitReason.SUSPENDED: (
        "another controller holds its Job or its pod back (suspend, managedBy, scheduling gates),"
        " without a limit of ours"
    ),
    WaitReason.NODE_SILENT: (
        "its node does not answer; the slot stays taken until it does, or until the node is"
        " confirmed to be gone (`gpuqueue confirm-gone`)"
    ),
    WaitReason.UNCONFIRMED: (
        "it was asked to end, but its node has not confirmed that; the slot stays taken"
    ),
}

ENDS: dict[str, str] = {
    EndReason.SUCCEEDED: "the task returned, or the container exited with 0",
    EndReason.ERROR: "the task raised, or its executor died",
    EndReason.RETRIED: "the task asked for a retry",
    EndReason.IGNORED: (
        "the task raised Ignore, or a Reject for which Celery stores nothing: there is no result"
    ),
    EndReason.REQUEUED: "the task raised Reject(requeue=True), and runs again",
    EndReason.ESCALATED: (
        "the GPU ran out of memory, and the job runs once more in a larger place (escalate)"
    ),
    EndReason.GPU_OOM: "the GPU ran out of memory",
    EndReason.HOST_OOM: "the host's memory limit was exceeded, and the kernel killed it",
    EndReason.TIME_LIMIT: "it ran longer than its hard time limit",
    EndReason.IMAGE: "its image cannot be used",
    EndReason.BAD_SPEC: "its specification cannot be launched",
    EndReason.UNSCHEDULABLE: "no node had room for it in time",
    EndReason.QUOTA: "the namespace's quota had no room for it in time",
    EndReason.EVICTED: "its pod was evicted in every attempt allowed",
    EndReason.PREEMPTED: "its pod was preempted in every attempt allowed",
    EndReason.NODE_LOST: "its node was lost in every attempt allowed",
    EndReason.POD_DELETED: "its pod was deleted from outside",
    EndReason.INFRA: (
        "its executor could not start, or its GPU or node failed, in every attempt allowed"
    ),
    EndReason.CANCELLED: "it was cancelled",
    EndReason.EXPIRED: "it waited longer than its `expires`",
    EndReason.REJECTED: "no class can ever run it, or its message is malformed or not trusted",
}

STATES = {
    "accepted": "accepted, about to join the line",
    "delayed": "waiting for its time",
    "waiting": "waiting in line",
    "launching": "starting",
    "running": "running",
    "reporting": "running: the executor writes the result",
    "finishing": "ending: a dispatcher writes the result",
    "ended": "ended",
}

NO_DISPATCHER_EVER = (
    "no dispatcher has ever announced itself in this Redis; start one with"
    " `celery -A gpuqueue worker`, or everything with `gpuqueue dev -A <your app>`"
)
NO_DISPATCHER_NOW = (
    "no dispatcher is alive; no job starts until you start one (`celery -A gpuqueue worker`)"
)
NOT_SERVED = "no live dispatcher serves this class; its jobs wait, and can be cancelled"


def sentence(reason: str) -> str:
    """Return the sentence for a reason; "" for an unknown one."""
    return WAITS.get(reason) or ENDS.get(reason, "")
