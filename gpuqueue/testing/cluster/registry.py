"""Creating, changing and deleting objects as the API server does it, for clients and for controllers alike."""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping
from dataclasses import dataclass
from time import time
from typing import Any

from gpuqueue.testing.cluster import quota, security
from gpuqueue.testing.cluster.defaults import complete_job, complete_pod
from gpuqueue.testing.cluster.errors import already_exists, bad_request, conflict, forbidden, invalid, not_found
from gpuqueue.testing.cluster.kinds import (
    CONFIG_MAPS,
    JOBS,
    NAMESPACES,
    PODS,
    PRIORITY_CLASSES,
    SECRETS,
    SERVICE_ACCOUNTS,
    Resource,
)
from gpuqueue.testing.cluster.schema import decode_as, strict_error
from gpuqueue.testing.cluster.store import Body, Store, key_of
from gpuqueue.testing.cluster.validation import check_job, check_meta, check_pod
from gpuqueue.testing.cluster.wire import generated, new_uid, stamp

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
TRACKING = "batch.kubernetes.io/job-tracking"

#: Told whoever deletes a Job without saying what is to become of its pods.
PRESERVED = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set "
    "propagationPolicy=Orphan to suppress this warning"
)


@dataclass(frozen=True, slots=True)
class Deletion:
    """How an object is to be deleted; ``grace`` in seconds, None for what the object says."""

    policy: str | None = None
    grace: int | None = None
    uid: str | None = None
    dry_run: bool = False

    @classmethod
    def read(cls, query: Mapping[str, str], body: Body) -> Deletion:
        """From a request: its body goes before its query."""
        grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
        return cls(
            body.get("propagationPolicy") or query.get("propagationPolicy"),
            None if grace is None else int(grace),
            (body.get("preconditions") or {}).get("uid"),
            "All" in (body.get("dryRun") or [query.get("dryRun", "")]),
        )


class Registry:
    """The store, with what the server does before and after it."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def create(
        self, resource: Resource, namespace: str, body: Any, *, unknown: str = "Warn", dry_run: bool = False
    ) -> tuple[Body, list[str]]:
        """Store a new object; it and the warnings that go with it.

        Args:
            resource: its kind.
            namespace: where, empty if the kind has none.
            body: as it was sent; it is not changed.
            unknown: what to do with unknown fields: ``Ignore``, ``Warn`` or ``Strict``.
            dry_run: only say what would be stored.

        Raises:
            Refused: 400, 403, 404, 409 or 422.
        """
        if not isinstance(body, dict):
            raise bad_request("couldn't get version/kind; json parse error: the body is no object")
        body, warnings = _decoded(resource, body, unknown)
        metadata = body.get("metadata") or {}
        body["metadata"] = metadata
        self._place(resource, namespace, metadata)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = generated(metadata["generateName"])
        for name in ("resourceVersion", "uid", "creationTimestamp", "deletionTimestamp", "selfLink", "managedFields"):
            metadata.pop(name, None)
        with self.store.lock:
            self._check_namespace(namespace, creates=True)
            warnings += self._complete(resource, namespace, body)
            if resource in (JOBS, PODS):
                quota.admit(self.store, resource, body)
            if self.store.get(resource, *key_of(body)) is not None:
                raise already_exists(resource, metadata["name"])
            if dry_run:
                metadata |= {"uid": metadata.get("uid") or new_uid(), "creationTimestamp": stamp()}
                body.pop("kind", None)
                body.pop("apiVersion", None)
                return body, warnings
            self.store.add(resource, body)
            return body, warnings

    def delete(self, resource: Resource, namespace: str, name: str, how: Deletion) -> tuple[Body, bool]:
        """Delete an object; its last version, and whether it is gone already.

        Raises:
            Refused: 404, or 409 if it is not the one that is meant.
        """
        with self.store.lock:
            body = self.store.get(resource, namespace, name)
            if body is None:
                raise not_found(resource, name)
            metadata = body["metadata"]
            if how.uid and how.uid != metadata["uid"]:
                why = f"Precondition failed: UID in precondition: {how.uid}, UID in object meta: {metadata['uid']}"
                raise conflict(resource, name, why)
            if how.dry_run:
                return body, False
            if resource is PODS:
                return body, self._delete_pod(body, how)
            return body, self._delete_plainly(resource, body, how)

    def patch(self, resource: Resource, namespace: str, name: str, change: Any) -> Body:
        """Merge a change into an object; its new version.

        Raises:
            Refused: 400, 404 or 422.
        """
        if not isinstance(change, dict):
            raise bad_request("the body of the request was in an unknown format - accepted media types include: merge patch")
        with self.store.lock:
            body = self.store.get(resource, namespace, name)
            if body is None:
                raise not_found(resource, name)
            merged = _merge(
                copy.deepcopy(body), {key: value for key, value in change.items() if key not in ("kind", "apiVersion")}
            )
            if resource is JOBS:
                check_job_change(body, merged)
            if causes := check_meta(resource, merged["metadata"]):
                raise invalid(resource, name, causes)
            if merged.get("spec") != body.get("spec") and "generation" in body["metadata"]:
                merged["metadata"]["generation"] += 1
            if resource is SECRETS:
                _encode_secret(merged)
            body.clear()
            body.update(merged)
            self.store.save(resource, body)
            return body

    def evict(self, namespace: str, name: str, how: Deletion) -> None:
        """Evict a pod through the eviction API.

        Raises:
            Refused: 404 or 409.
        """
        with self.store.lock:
            pod = self.store.get(PODS, namespace, name)
            if pod is None:
                raise not_found(PODS, name)
            if pod["status"].get("phase") not in ("Succeeded", "Failed") and not how.dry_run:
                disrupt(pod, "EvictionByEvictionAPI", "Eviction API: evicting")
                self.store.save(PODS, pod)
            self.delete(PODS, namespace, name, how)

    def _delete_pod(self, pod: Body, how: Deletion) -> bool:
        metadata = pod["metadata"]
        grace = pod["spec"].get("terminationGracePeriodSeconds", 30) if how.grace is None else max(how.grace, 0)
        if not pod["spec"].get("nodeName") or pod["status"].get("phase") in ("Succeeded", "Failed"):
            grace = 0  # no kubelet has anything to end
        if "deletionTimestamp" in metadata:
            if grace >= metadata.get("deletionGracePeriodSeconds", 0):
                return False
        else:
            metadata["generation"] = metadata.get("generation", 1) + 1
        metadata["deletionTimestamp"] = stamp(time() + grace)
        metadata["deletionGracePeriodSeconds"] = grace
        gone = grace == 0 and not metadata.get("finalizers")
        if gone:
            # The server tells of the mark first, then of the end.
            self.store.touch(PODS, pod)
            self.store.remove(PODS, pod)
        else:
            self.store.save(PODS, pod)
        return gone

    def _delete_plainly(self, resource: Resource, body: Body, how: Deletion) -> bool:
        metadata = body["metadata"]
        finalizers = [name for name in metadata.get("finalizers", []) if name not in (FOREGROUND, ORPHAN)]
        policy = how.policy or ("Orphan" if resource is JOBS else "Background")
        if policy == "Foreground":
            finalizers.append(FOREGROUND)
        elif policy == "Orphan" and resource is JOBS:
            finalizers.append(ORPHAN)
        elif policy not in ("Background", "Orphan"):
            raise invalid_option(policy)
        if resource is NAMESPACES:
            finalizers.append("kubernetes")
            body["status"] = {"phase": "Terminating"}
        if not finalizers:
            self.store.remove(resource, body)
            return True
        if "deletionTimestamp" not in metadata:
            metadata |= {"deletionTimestamp": stamp(), "deletionGracePeriodSeconds": 0}
            if "generation" in metadata:
                metadata["generation"] += 1
        metadata["finalizers"] = finalizers
        self.store.save(resource, body)
        return False

    def _place(self, resource: Resource, namespace: str, metadata: Body) -> None:
        if not resource.namespaced:
            metadata.pop("namespace", None)
        elif metadata.setdefault("namespace", namespace) != namespace:
            raise bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request "
                f'("{metadata["namespace"]}" and "{namespace}")'
            )

    def _check_namespace(self, namespace: str, *, creates: bool) -> None:
        if not namespace:
            return
        space = self.store.get(NAMESPACES, "", namespace)
        if space is None:
            raise not_found(NAMESPACES, namespace)
        if creates and "deletionTimestamp" in space["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise forbidden(NAMESPACES, namespace, why)

    def _complete(self, resource: Resource, namespace: str, body: Body) -> list[str]:
        """Defaults, checks, and what is told beside the answer."""
        metadata = body["metadata"]
        warnings: list[str] = []
        if resource is JOBS:
            metadata["uid"], metadata["generation"] = new_uid(), 1
            body["status"] = {}
            if causes := check_job(body):
                raise invalid(resource, metadata.get("name", ""), causes)
            complete_job(body, metadata["uid"])
            space = self.store.get(NAMESPACES, "", namespace) or {}
            warnings += security.warn(space, body["spec"]["template"])
        elif resource is PODS:
            metadata["generation"] = 1
            complete_pod(body, self.store.bodies(PRIORITY_CLASSES))
            if causes := check_pod(body):
                raise invalid(resource, metadata.get("name", ""), causes)
            self._admit_pod(namespace, body)
        else:
            if resource is SECRETS:
                body.setdefault("type", "Opaque")
                _encode_secret(body)
            elif resource is NAMESPACES:
                body.setdefault("spec", {"finalizers": ["kubernetes"]})
                body["status"] = {"phase": "Active"}
                metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata.get("name", "")
            if causes := check_meta(resource, metadata):
                raise invalid(resource, metadata.get("name", ""), causes)
        return warnings

    def _admit_pod(self, namespace: str, pod: Body) -> None:
        spec, name = pod["spec"], pod["metadata"]["name"]
        account = spec["serviceAccountName"]
        if account != "default" and self.store.get(SERVICE_ACCOUNTS, namespace, account) is None:
            why = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
            raise forbidden(PODS, name, why)
        wanted = spec.get("priorityClassName")
        if wanted and self.store.get(PRIORITY_CLASSES, "", wanted) is None:
            raise forbidden(PODS, name, f"no PriorityClass with name {wanted} was found")
        security.enforce(self.store.get(NAMESPACES, "", namespace) or {}, pod)


def disrupt(pod: Body, reason: str, message: str) -> None:
    """Mark a pod as a target of a disruption."""
    condition: Body = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    known = [item for item in pod["status"].get("conditions", []) if item["type"] == "DisruptionTarget"]
    condition |= {"lastProbeTime": None, "lastTransitionTime": known[0]["lastTransitionTime"] if known else stamp()}
    others = [item for item in pod["status"].get("conditions", []) if item["type"] != "DisruptionTarget"]
    pod["status"]["conditions"] = [*others, condition]


def invalid_option(policy: str) -> Exception:
    """The refusal of an unknown propagationPolicy."""
    return bad_request(
        f'invalid: propagationPolicy: Unsupported value: "{policy}": '
        'supported values: "Foreground", "Background", "Orphan", "nil"'
    )


def check_job_change(old: Body, new: Body) -> None:
    """Refuse a change of what is fixed once a Job exists.

    Raises:
        Refused: 422.
    """
    from gpuqueue.testing.cluster.validation import check_unchanged

    if causes := check_unchanged(old["spec"], new["spec"]):
        raise invalid(JOBS, old["metadata"]["name"], causes)


def _decoded(resource: Resource, body: Body, unknown: str) -> tuple[Body, list[str]]:
    if resource not in (JOBS, PODS):
        return copy.deepcopy(body), []
    clean, fields = decode_as(resource.kind, body)
    if fields and unknown == "Strict":
        raise strict_error(resource.kind, resource.version, fields)
    clean.setdefault("spec", {})
    return clean, [f'unknown field "{path}"' for path in fields] if unknown == "Warn" else []


def _encode_secret(secret: Body) -> None:
    plain = secret.pop("stringData", None) or {}
    if plain:
        coded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
        secret["data"] = {**(secret.get("data") or {}), **coded}


def _merge(target: Any, change: Any) -> Any:
    """RFC 7386: null takes away, objects merge, everything else replaces."""
    if not isinstance(change, dict):
        return change
    result = target if isinstance(target, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), value)
    return result


__all__ = ["CONFIG_MAPS", "FOREGROUND", "ORPHAN", "PRESERVED", "TRACKING", "Deletion", "Registry", "disrupt"]
