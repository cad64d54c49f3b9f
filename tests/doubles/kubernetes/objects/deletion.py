"""How objects are deleted: graces, finalizers, propagation, evictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import time

from tests.doubles.kubernetes.objects.errors import bad_request, conflict, not_found
from tests.doubles.kubernetes.objects.kinds import JOBS, NAMESPACES, PODS, Resource
from tests.doubles.kubernetes.objects.store import Body, Store
from tests.doubles.kubernetes.objects.wire import stamp

#: Finalizers: of a deletion in the foreground, of one that leaves the pods behind, and of the Job
#: controller on its pods.
FOREGROUND, ORPHAN, TRACKING = "foregroundDeletion", "orphan", "batch.kubernetes.io/job-tracking"

#: Told whoever deletes a Job without saying what is to become of its pods.
PRESERVED = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to"
    " remove them or set propagationPolicy=Orphan to suppress this warning"
)
_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Deletion:
    """How an object is to be deleted; ``grace`` in seconds, None for what the object says."""

    policy: str | None = None
    grace: int | None = None
    uid: str | None = None
    dry_run: bool = False

    @classmethod
    def read(cls, query: Mapping[str, str], body: Body) -> Deletion:
        """From a request: its body goes before its query.

        Raises:
            Refused: 400, it cannot be understood.
        """
        grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
        policy = body.get("propagationPolicy") or query.get("propagationPolicy")
        if policy not in (None, "Foreground", "Background", "Orphan"):
            supported = '"Foreground", "Background", "Orphan", "nil"'
            raise bad_request(
                f'invalid: propagationPolicy: Unsupported value: "{policy}": supported values:'
                f" {supported}"
            )
        uid = (body.get("preconditions") or {}).get("uid")
        dry_run = "All" in (body.get("dryRun") or [query.get("dryRun", "")])
        return cls(policy, None if grace is None else int(grace), uid, dry_run)


def delete(
    store: Store, resource: Resource, namespace: str, name: str, how: Deletion
) -> tuple[Body, bool]:
    """Delete an object; its last version, and whether it is gone already.

    Raises:
        Refused: 404, or 409 if it is not the one that is meant.
    """
    with store.lock:
        body = store.get(resource, namespace, name)
        if body is None:
            raise not_found(resource, name)
        uid = body["metadata"]["uid"]
        if how.uid and how.uid != uid:
            raise conflict(
                resource,
                name,
                f"Precondition failed: UID in precondition: {how.uid}, UID in object meta: {uid}",
            )
        if how.dry_run:
            return body, False
        return body, (_delete_pod if resource is PODS else _delete_plainly)(
            store, resource, body, how
        )


def evict(store: Store, namespace: str, name: str, how: Deletion) -> None:
    """Evict a pod through the eviction API.

    Raises:
        Refused: 404 or 409.
    """
    with store.lock:
        pod = store.get(PODS, namespace, name)
        if pod is None:
            raise not_found(PODS, name)
        if pod["status"].get("phase") not in _ENDED and not how.dry_run:
            disrupt(pod, "EvictionByEvictionAPI", "Eviction API: evicting")
            store.save(PODS, pod)
        delete(store, PODS, namespace, name, how)


def disrupt(pod: Body, reason: str, message: str) -> None:
    """Mark a pod as a target of a disruption."""
    conditions: list[Body] = pod["status"].get("conditions", [])
    since = next(
        (item["lastTransitionTime"] for item in conditions if item["type"] == "DisruptionTarget"),
        stamp(),
    )
    condition: Body = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
    }
    condition |= {"lastProbeTime": None, "lastTransitionTime": since}
    pod["status"]["conditions"] = [
        *(item for item in conditions if item["type"] != "DisruptionTarget"),
        condition,
    ]


def _delete_pod(store: Store, resource: Resource, pod: Body, how: Deletion) -> bool:
    metadata = pod["metadata"]
    grace = (
        pod["spec"].get("terminationGracePeriodSeconds", 30)
        if how.grace is None
        else max(how.grace, 0)
    )
    if not pod["spec"].get("nodeName") or pod["status"].get("phase") in _ENDED:
        grace = 0  # no kubelet has anything to end
    if "deletionTimestamp" not in metadata:
        metadata["generation"] = metadata.get("generation", 1) + 1
    elif grace >= metadata.get("deletionGracePeriodSeconds", 0):
        return False
    metadata["deletionTimestamp"] = stamp(time() + grace)
    metadata["deletionGracePeriodSeconds"] = grace
    if grace or metadata.get("finalizers"):
        store.save(resource, pod)
        return False
    store.touch(resource, pod)  # the server tells of the mark first, then of the end
    store.remove(resource, pod)
    return True


def _delete_plainly(store: Store, resource: Resource, body: Body, how: Deletion) -> bool:
    metadata = body["metadata"]
    finalizers = [
        name for name in metadata.get("finalizers", []) if name not in (FOREGROUND, ORPHAN)
    ]
    policy = how.policy or ("Orphan" if resource is JOBS else "Background")
    if policy == "Foreground":
        finalizers.append(FOREGROUND)
    elif policy == "Orphan" and resource is JOBS:
        finalizers.append(ORPHAN)
    if resource is NAMESPACES:
        finalizers.append("kubernetes")
        body["status"] = {"phase": "Terminating"}
    if not finalizers:
        store.remove(resource, body)
        return True
    if "deletionTimestamp" not in metadata:
        metadata |= {"deletionTimestamp": stamp(), "deletionGracePeriodSeconds": 0}
        if "generation" in metadata:
            metadata["generation"] += 1
    metadata["finalizers"] = finalizers
    store.save(resource, body)
    return False
