"""What the reasons mean, in a sentence each. The typed word itself is always shown beside it."""

from __future__ import annotations

from gpuqueue.model.reasons import EndReason, WaitReason

WAITS: dict[str, str] = {
    WaitReason.NO_FREE_SLOT: "all slots of its isolation are taken",
    WaitReason.EXCLUSIVE_RUNNING: (
        "an exclusive job has the class to itself; shared jobs start when it has ended"
    ),
    WaitReason.SHARED_RUNNING: (
        "shared jobs are running; an exclusive job starts when they have ended"
    ),
    WaitReason.DRAINING_FOR_EXCLUSIVE: (
        "the gate is closed: an exclusive job has been overtaken often enough and is next"
    ),
    WaitReason.REPAIRING: (
        "no watcher has compared the slots with what really runs yet; a dispatcher does so when it"
        " starts"
    ),
    WaitReason.BEHIND_OTHERS: (
        "a slot is free, and others are ahead of it in line (or it is about to start)"
    ),
    WaitReason.TURN_OF_SHARED: "enough exclusive jobs have run in a row; shared jobs are next",
    WaitReason.TENANT_LIMIT: "its tenant runs as many jobs as it may",
    WaitReason.NOT_BEFORE: "its time has not come: its eta, or the pause before its next attempt",
    WaitReason.UNSCHEDULABLE: "no node can take it at present",
    WaitReason.PULLING_IMAGE: "its image is being pulled",
    WaitReason.STARTING: "it has its slot, and its executor is being started",
    WaitReason.LAUNCH_REFUSED: (
        "the cluster's API does not take its Job at present; it is tried again"
    ),
    WaitReason.QUOTA: "the namespace's quota does not admit it at present",
    WaitReason.UNCONFIRMED: (
        "it was told to end, and its node does not say that it has: its slot stays taken"
    ),
}

ENDS: dict[str, str] = {
    EndReason.SUCCEEDED: "the task returned",
    EndReason.ERROR: "the task raised, or its executor died",
    EndReason.RETRIED: "the task asked for a retry",
    EndReason.IGNORED: "the task raised Ignore or Reject: there is no result",
    EndReason.GPU_OOM: "the GPU's memory was exhausted",
    EndReason.HOST_OOM: "it was killed for the memory it used",
    EndReason.TIME_LIMIT: "it ran longer than its hard time limit",
    EndReason.IMAGE: "its image cannot be used",
    EndReason.BAD_SPEC: "it cannot be launched as it is specified",
    EndReason.UNSCHEDULABLE: "no node could take it in time",
    EndReason.QUOTA: "the namespace's quota did not admit it",
    EndReason.EVICTED: "its pod was evicted, as often as attempts are allowed",
    EndReason.PREEMPTED: "its pod was preempted, as often as attempts are allowed",
    EndReason.NODE_LOST: "its node was lost, as often as attempts are allowed",
    EndReason.POD_DELETED: "somebody deleted its pod",
    EndReason.INFRA: (
        "its executor could not be started, or its GPU or node failed, as often as attempts are"
        " allowed"
    ),
    EndReason.CANCELLED: "it was cancelled",
    EndReason.EXPIRED: "it waited longer than its `expires`",
    EndReason.REJECTED: "no class can ever run it",
}

STATES = {
    "accepted": "accepted, on its way into line",
    "delayed": "waits for a time",
    "waiting": "waits in line",
    "launching": "starting",
    "running": "running",
    "reporting": "running: it is writing its result",
    "finishing": "ending: its result is being written for it",
    "ended": "ended",
}

NO_DISPATCHER_EVER = (
    "no dispatcher has ever announced itself in this Redis: "
    "start one with `celery -A gpuqueue worker`, or all of it with `gpuqueue dev -A <your app>`"
)
NO_DISPATCHER_NOW = (
    "no dispatcher is alive: nothing starts until one does (`celery -A gpuqueue worker`)"
)


def sentence(reason: str) -> str:
    """Say what a reason means; nothing for one that is not known here."""
    return WAITS.get(reason) or ENDS.get(reason, "")
