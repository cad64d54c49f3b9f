"""The counts and the conditions of a Job, worked out from its pods."""

from __future__ import annotations

from collections.abc import Sequence

from tests.doubles.kubernetes.objects.store import Body
from tests.doubles.kubernetes.objects.wire import stamp

_ENDED = ("Succeeded", "Failed")


def owner_of(pod: Body) -> str | None:
    """The uid of the Job that controls a pod."""
    for reference in pod["metadata"].get("ownerReferences", ()):
        if reference.get("controller") and reference["kind"] == "Job":
            return str(reference["uid"])
    return None


def active(pods: Sequence[Body]) -> list[Body]:
    """The pods that have not ended and are not being deleted."""
    return [
        pod
        for pod in pods
        if pod["status"].get("phase") not in _ENDED and "deletionTimestamp" not in pod["metadata"]
    ]


def counts(pods: Sequence[Body]) -> Body:
    """The counts of a status; ``active`` is not told when it is 0."""
    live = active(pods)
    ready = [pod for pod in live if _is_ready(pod)]
    leaving = [
        pod
        for pod in pods
        if pod["status"].get("phase") not in _ENDED and "deletionTimestamp" in pod["metadata"]
    ]
    return {"active": len(live) or None, "ready": len(ready), "terminating": len(leaving)}


def failed(pod: Body, *, patient: bool) -> bool:
    """Whether a pod counts as failed; unless the Job is ``patient``, a pod that is being deleted
    does.
    """
    phase, deleted = pod["status"].get("phase"), "deletionTimestamp" in pod["metadata"]
    if phase == "Failed":
        return True
    return deleted and (phase == "Pending" if patient else phase != "Succeeded")


def condition(job: Body, *kinds: str) -> Body | None:
    """The first condition of these types that is true, None if none is."""
    for item in job["status"].get("conditions", ()):
        if item["type"] in kinds and item["status"] == "True":
            return dict(item)
    return None


def made(kind: str, reason: str, message: str, *, status: str = "True") -> Body:
    """A new condition."""
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
    return any(
        item["type"] == "Ready" and item["status"] == "True"
        for item in pod["status"].get("conditions", ())
    )
