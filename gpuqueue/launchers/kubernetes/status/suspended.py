"""Jobs and pods that another controller holds back: who does, and since when. Pure.

A queue such as Kueue suspends a Job until it has quota, and again to give its room to another; a
webhook can gate a pod, or give a Job to another controller than that of Kubernetes.
"""

from __future__ import annotations

from typing import Final

from gpuqueue.launchers.kubernetes.api.objects import Job, Pod, seconds

#: The value of ``managedBy`` that changes nothing.
BUILT_IN: Final = "kubernetes.io/job-controller"
#: The label by which Kueue manages a Job: the name of its queue.
KUEUE_QUEUE: Final = "kueue.x-k8s.io/queue-name"
#: The reason of a pod whose gates keep the scheduler from it.
GATED: Final = "SchedulingGated"


def held_by(job: Job) -> str:
    """Return who holds a Job back, and how; "" if no other controller does."""
    by = manager(job)
    if job.spec.suspend:
        return f"its Job is suspended by {by or 'another controller'}"
    if job.spec.managed_by not in (None, "", BUILT_IN):
        return f"its Job is managed by {by}, which has not created its pod yet"
    return ""


def manager(job: Job) -> str:
    """Return who manages a Job, as far as it says so; "" if it does not."""
    if job.spec.managed_by not in (None, "", BUILT_IN):
        return str(job.spec.managed_by)
    queue = (job.metadata.labels or {}).get(KUEUE_QUEUE)
    return f"Kueue (queue {queue})" if queue else ""


def was_suspended(job: Job, pod: Pod) -> bool:
    """Whether a pod of a Job was deleted since its Job was suspended, which may be resumed by now.

    A Job that a user deletes is gone, and one whose pod a user deletes was never suspended since.
    """
    if job.metadata.deletion_timestamp is not None:
        return False
    condition = job.status.condition("Suspended")
    if job.spec.suspend or (condition is not None and condition.status == "True"):
        return True
    resumed = seconds(condition.last_transition_time) if condition else None
    requested = pod.metadata.deletion_requested
    return resumed is not None and requested is not None and requested <= resumed


def gates(pod: Pod) -> str:
    """Return what keeps the scheduler from a pod, for messages; "" if nothing does."""
    condition = pod.status.condition("PodScheduled")
    if condition is None or condition.reason != GATED or condition.status == "True":
        return ""
    names = ", ".join(each.name for each in pod.spec.scheduling_gates or ())
    return f"scheduling gates hold its pod back: {names or condition.message or GATED}"
