"""The counts and conditions of a Job, computed from its pods."""

from __future__ import annotations

from collections.abc import Sequence

from tests.doubles.kubernetes.objects.bodies import Body, condition_of, has_ended, is_terminating
from tests.doubles.kubernetes.objects.wire import stamp


def controller_of(pod: Body) -> Body | None:
    """Return the reference to the Job that controls a pod, None if no Job does."""
    references: list[Body] = pod["metadata"].get("ownerReferences", [])
    return next(
        (item for item in references if item.get("controller") and item["kind"] == "Job"), None
    )


def active(pods: Sequence[Body]) -> list[Body]:
    """Return the pods that have not ended and are not terminating."""
    return [pod for pod in pods if not has_ended(pod) and not is_terminating(pod)]


def counts(pods: Sequence[Body]) -> Body:
    """Return the counts of a status. The server omits ``active`` if it is 0."""
    running = active(pods)
    ready = [pod for pod in running if _is_ready(pod)]
    terminating = [pod for pod in pods if not has_ended(pod) and is_terminating(pod)]
    return {
        "active": len(running) or None,
        "ready": len(ready),
        "terminating": len(terminating),
    }


def has_failed(pod: Body, *, patient: bool) -> bool:
    """Whether a pod counts as failed. A terminating pod does, unless the Job is ``patient``."""
    phase = pod["status"].get("phase")
    if phase == "Failed":
        return True
    return is_terminating(pod) and (phase == "Pending" if patient else phase != "Succeeded")


def true_condition(job: Body, *kinds: str) -> Body | None:
    """Return the first true condition of these types, None if there is none."""
    for item in job["status"].get("conditions", ()):
        if item["type"] in kinds and item["status"] == "True":
            return dict(item)
    return None


def new_condition(kind: str, reason: str, message: str, *, status: str = "True") -> Body:
    """Return a condition that holds from now on."""
    now = stamp()
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastProbeTime": now,
        "lastTransitionTime": now,
    }


def _is_ready(pod: Body) -> bool:
    condition = condition_of(pod, "Ready")
    return condition is not None and condition["status"] == "True"
