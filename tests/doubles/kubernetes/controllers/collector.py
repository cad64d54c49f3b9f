"""Garbage collection: owned pods, Jobs after their time to live, deleted namespaces."""

from __future__ import annotations

import contextlib

from tests.doubles.kubernetes.controllers.job_status import true_condition
from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.engine.loop import COLLECTOR as PART
from tests.doubles.kubernetes.engine.loop import Engine
from tests.doubles.kubernetes.objects.admission import quota
from tests.doubles.kubernetes.objects.bodies import Body, is_terminating, key_of
from tests.doubles.kubernetes.objects.deletion import FOREGROUND, ORPHAN, Deletion
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.kinds import EVENTS, JOBS, NAMESPACES, PODS, QUOTAS, STORED
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import DELETED, Change


class Collector:
    """Deletes pods of deleted Jobs, Jobs after their time to live, and all objects of a deleted
    namespace. It also keeps the status of quotas.
    """

    def __init__(self, registry: Registry, engine: Engine) -> None:
        self._registry = registry
        self._store = registry.store
        self._engine = engine

        self._owned: dict[str, dict[str, Body]] = {}
        """Uid of an owner → uid of a pod → pod."""
        self._expiring: set[str] = set()
        self._store.subscribe(JOBS, self._job_changed)
        self._store.subscribe(PODS, self._pod_changed)
        self._store.subscribe(NAMESPACES, self._namespace_changed)
        self._store.subscribe(
            QUOTAS, lambda change: self._update_quotas(change.body["metadata"]["namespace"])
        )

    def _job_changed(self, change: Change) -> None:
        job, uid = change.body, change.body["metadata"]["uid"]
        namespace, name = key_of(job)
        if change.before is None or change.kind == DELETED:
            self._update_quotas(namespace)
        if change.kind == DELETED:
            self._expiring.discard(uid)
            self._engine.after(PART, delays.COLLECT, lambda: self._delete_owned(uid))
            self._remove_empty(namespace)
        elif is_terminating(job):
            self._engine.after(
                PART, 2 * delays.COLLECT, lambda: self._resolve(namespace, name, uid)
            )
        ttl = job["spec"].get("ttlSecondsAfterFinished")
        finished = true_condition(job, "Complete", "Failed") is not None
        if ttl is not None and finished and uid not in self._expiring:
            self._expiring.add(uid)
            self._engine.after_stated(PART, ttl, lambda: self._expire(namespace, name, uid))

    def _pod_changed(self, change: Change) -> None:
        pod = change.body
        namespace, uid = pod["metadata"]["namespace"], pod["metadata"]["uid"]
        before = change.before
        if (
            before is None
            or change.kind == DELETED
            or before[1]["status.phase"] != change.fields["status.phase"]
        ):
            self._update_quotas(namespace)
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
            self._remove_empty(namespace)

    def _delete_owned(self, owner: str) -> None:
        for pod in list(self._owned.get(owner, {}).values()):
            if not is_terminating(pod):
                with contextlib.suppress(Refused):
                    self._registry.delete(PODS, *key_of(pod), Deletion(uid=pod["metadata"]["uid"]))

    def _resolve(self, namespace: str, name: str, uid: str) -> None:
        """Continue the deletion of a Job in the foreground, or of one that orphans its pods."""
        job = self._store.get(JOBS, namespace, name)
        if job is None or job["metadata"]["uid"] != uid or not is_terminating(job):
            return
        finalizers = job["metadata"].get("finalizers", [])
        if ORPHAN in finalizers:
            for pod in list(self._owned.pop(uid, {}).values()):
                pod["metadata"].pop("ownerReferences", None)
                self._store.save(PODS, pod)
            self._drop_finalizer(job, ORPHAN)
        elif FOREGROUND in finalizers:
            self._delete_owned(uid)
            if not self._owned.get(uid):
                self._drop_finalizer(job, FOREGROUND)

    def _drop_finalizer(self, job: Body, finalizer: str) -> None:
        job["metadata"]["finalizers"] = [
            name for name in job["metadata"]["finalizers"] if name != finalizer
        ]
        self._store.save(JOBS, job)

    def _expire(self, namespace: str, name: str, uid: str) -> None:
        with contextlib.suppress(Refused):
            self._registry.delete(JOBS, namespace, name, Deletion("Foreground", uid=uid))

    def _update_quotas(self, namespace: str) -> None:
        if any(True for _ in self._store.bodies(QUOTAS, namespace)):
            self._engine.after(PART, delays.COLLECT, lambda: quota.update(self._store, namespace))

    def _namespace_changed(self, change: Change) -> None:
        if change.kind != DELETED and is_terminating(change.body):
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
        self._remove_empty(namespace)

    def _remove_empty(self, namespace: str) -> None:
        """Remove a deleted namespace once it has neither pods nor Jobs."""
        space = self._store.get(NAMESPACES, "", namespace)
        if space is None or not is_terminating(space):
            return
        if not any(
            True for resource in (PODS, JOBS) for _ in self._store.bodies(resource, namespace)
        ):
            self._engine.after(PART, delays.COLLECT, lambda: self._store.remove(NAMESPACES, space))
