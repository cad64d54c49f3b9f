"""The garbage collector and its like: what goes because something else went, or because its time is
over.
"""

from __future__ import annotations

import contextlib

from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.engine.loop import COLLECTOR as PART
from tests.doubles.kubernetes.engine.loop import Engine
from tests.doubles.kubernetes.objects.admission import quota
from tests.doubles.kubernetes.objects.deletion import FOREGROUND, ORPHAN, Deletion
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.kinds import EVENTS, JOBS, NAMESPACES, PODS, QUOTAS, STORED
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import DELETED, Body, Change, key_of

_FINISHED = ("Complete", "Failed")


class Collector:
    """Deletes the pods of deleted Jobs, Jobs whose time to live is over, and what is in a deleted
    namespace.
    """

    def __init__(self, registry: Registry, engine: Engine, manifest_pace: float) -> None:
        self._registry = registry
        self._store = registry.store
        self._engine = engine
        self._clock = manifest_pace
        self._owned: dict[str, dict[str, Body]] = {}
        """Uid of an owner → uid → what it owns."""
        self._ageing: set[str] = set()
        self._store.subscribe(JOBS, self._job_changed)
        self._store.subscribe(PODS, self._pod_changed)
        self._store.subscribe(NAMESPACES, self._namespace_changed)
        self._store.subscribe(
            QUOTAS, lambda change: self._count(change.body["metadata"]["namespace"])
        )

    def _job_changed(self, change: Change) -> None:
        job, uid = change.body, change.body["metadata"]["uid"]
        namespace, name = key_of(job)
        if change.before is None or change.kind == DELETED:
            self._count(namespace)
        if change.kind == DELETED:
            self._ageing.discard(uid)
            self._engine.after(PART, delays.COLLECT, lambda: self._delete_owned(uid))
            self._empty(namespace)
        elif "deletionTimestamp" in job["metadata"]:
            self._engine.after(
                PART, 2 * delays.COLLECT, lambda: self._resolve(namespace, name, uid)
            )
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        over = any(
            c["type"] in _FINISHED and c["status"] == "True"
            for c in job["status"].get("conditions", ())
        )
        if ttl is not None and over and uid not in self._ageing:
            self._ageing.add(uid)
            self._engine.after_exactly(
                PART, ttl * self._clock, lambda: self._expire(namespace, name, uid)
            )

    def _pod_changed(self, change: Change) -> None:
        pod = change.body
        namespace, uid = pod["metadata"]["namespace"], pod["metadata"]["uid"]
        before = change.before
        if (
            before is None
            or change.kind == DELETED
            or before[1]["status.phase"] != change.fields["status.phase"]
        ):
            self._count(namespace)
        for reference in pod["metadata"].get("ownerReferences", ()):
            owned = self._owned.setdefault(reference["uid"], {})
            if change.kind == DELETED:
                owned.pop(uid, None)
                self._resolve(namespace, reference["name"], reference["uid"])
            else:
                owned[uid] = pod
            if not owned:
                self._owned.pop(reference["uid"], None)
        if change.kind == DELETED:
            self._empty(namespace)

    def _delete_owned(self, owner: str) -> None:
        for pod in list(self._owned.get(owner, {}).values()):
            if "deletionTimestamp" not in pod["metadata"]:
                with contextlib.suppress(Refused):
                    self._registry.delete(PODS, *key_of(pod), Deletion(uid=pod["metadata"]["uid"]))

    def _resolve(self, namespace: str, name: str, uid: str) -> None:
        """Go on with a Job that is being deleted in the foreground, or that leaves its pods behind."""
        job = self._store.get(JOBS, namespace, name)
        if (
            job is None
            or job["metadata"]["uid"] != uid
            or "deletionTimestamp" not in job["metadata"]
        ):
            return
        finalizers = job["metadata"].get("finalizers", [])
        if ORPHAN in finalizers:
            for pod in list(self._owned.pop(uid, {}).values()):
                pod["metadata"].pop("ownerReferences", None)
                self._store.save(PODS, pod)
            self._drop(job, ORPHAN)
        elif FOREGROUND in finalizers:
            self._delete_owned(uid)
            if not self._owned.get(uid):
                self._drop(job, FOREGROUND)

    def _drop(self, job: Body, finalizer: str) -> None:
        job["metadata"]["finalizers"] = [
            name for name in job["metadata"]["finalizers"] if name != finalizer
        ]
        self._store.save(JOBS, job)

    def _expire(self, namespace: str, name: str, uid: str) -> None:
        with contextlib.suppress(Refused):
            self._registry.delete(JOBS, namespace, name, Deletion("Foreground", uid=uid))

    def _count(self, namespace: str) -> None:
        if any(True for _ in self._store.bodies(QUOTAS, namespace)):
            self._engine.after(PART, delays.COLLECT, lambda: quota.update(self._store, namespace))

    def _namespace_changed(self, change: Change) -> None:
        if change.kind != DELETED and "deletionTimestamp" in change.body["metadata"]:
            name = change.body["metadata"]["name"]
            self._engine.after(PART, delays.COLLECT, lambda: self._clear(name))

    def _clear(self, namespace: str) -> None:
        for resource in STORED:
            if not resource.namespaced or resource in (PODS, EVENTS):
                continue
            for body in list(self._store.bodies(resource, namespace)):
                self._registry.delete(resource, *key_of(body), Deletion("Background"))
        for pod in list(self._store.bodies(PODS, namespace)):
            self._registry.delete(PODS, *key_of(pod), Deletion())
        for event in list(self._store.bodies(EVENTS, namespace)):
            self._store.remove(EVENTS, event)
        self._empty(namespace)

    def _empty(self, namespace: str) -> None:
        """Let a deleted namespace go once nothing is in it."""
        space = self._store.get(NAMESPACES, "", namespace)
        if space is None or "deletionTimestamp" not in space["metadata"]:
            return
        if not any(
            True for resource in (PODS, JOBS) for _ in self._store.bodies(resource, namespace)
        ):
            self._engine.after(PART, delays.COLLECT, lambda: self._store.remove(NAMESPACES, space))
