"""The deletion of objects: grace periods, finalizers, propagation, evictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.doubles.kubernetes import clock
from tests.doubles.kubernetes.objects.bodies import (
    Body,
    condition_of,
    has_ended,
    is_terminating,
    put_condition,
)
from tests.doubles.kubernetes.objects.errors import bad_request, conflict, not_found
from tests.doubles.kubernetes.objects.kinds import JOBS, NAMESPACES, PODS, Resource
from tests.doubles.kubernetes.objects.store import Store
from tests.doubles.kubernetes.objects.wire import stamp

#: Finalizers: of a foreground deletion, of a deletion that orphans the pods, and of the Job
#: controller on its pods.
FOREGROUND, ORPHAN, TRACKING = "foregroundDeletion", "orphan", "batch.kubernetes.io/job-tracking"

#: The warning about the deletion of a Job without a propagation policy.
PRESERVED = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to"
    " remove them or set propagationPolicy=Orphan to suppress this warning"
)


@dataclass(frozen=True, slots=True)
class Deletion:
    """The options of a deletion. ``grace`` is in seconds; None keeps the object's grace period."""

    policy: str | None = None
    grace: int | None = None
    uid: str | None = None
    dry_run: bool = False

    @classmethod
    def read(cls, query: Mapping[str, str], body: Body) -> Deletion:
        """Return the options of a request. Its body takes precedence over its query.

        Raises:
            Refused: 400, an option is invalid.
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
    """Delete an object; returns its last version, and whether the store has removed it.

    Raises:
        Refused: 404, or 409 if the object has another uid.
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
        return body, (_delete_pod if resource is PODS else _delete_other)(
            store, resource, body, how
        )


def evict(store: Store, namespace: str, name: str, how: Deletion) -> None:
    """Evict a pod as the eviction API does.

    Raises:
        Refused: 404, or 409 if the pod has another uid.
    """
    with store.lock:
        pod = store.get(PODS, namespace, name)
        if pod is None:
            raise not_found(PODS, name)
        if not has_ended(pod) and not how.dry_run:
            disrupt(pod, "EvictionByEvictionAPI", "Eviction API: evicting")
            store.save(PODS, pod)
        delete(store, PODS, namespace, name, how)


def disrupt(pod: Body, reason: str, message: str) -> None:
    """Mark a pod as the target of a disruption."""
    known = condition_of(pod, "DisruptionTarget")
    since = stamp() if known is None else known["lastTransitionTime"]
    condition: Body = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
    }
    condition |= {"lastProbeTime": None, "lastTransitionTime": since}
    put_condition(pod, condition)


def _delete_pod(store: Store, resource: Resource, pod: Body, how: Deletion) -> bool:
    metadata = pod["metadata"]
    grace = (
        pod["spec"].get("terminationGracePeriodSeconds", 30)
        if how.grace is None
        else max(how.grace, 0)
    )
    if not pod["spec"].get("nodeName") or has_ended(pod):
        grace = 0  # no kubelet has containers to end
    if not is_terminating(pod):
        metadata["generation"] = metadata.get("generation", 1) + 1
    elif grace >= metadata.get("deletionGracePeriodSeconds", 0):
        return False
    metadata["deletionTimestamp"] = stamp(clock.now() + grace)
    metadata["deletionGracePeriodSeconds"] = grace
    if grace or metadata.get("finalizers"):
        store.save(resource, pod)
        return False
    store.touch(resource, pod)  # watches get the deletion timestamp first, then the removal
    store.remove(resource, pod)
    return True


def _delete_other(store: Store, resource: Resource, body: Body, how: Deletion) -> bool:
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
    if not is_terminating(body):
        metadata |= {"deletionTimestamp": stamp(), "deletionGracePeriodSeconds": 0}
        if "generation" in metadata:
            metadata["generation"] += 1
    metadata["finalizers"] = finalizers
    store.save(resource, body)
    return False
