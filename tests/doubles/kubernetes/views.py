"""What a test sees of a cluster without asking its API server: copies of objects, processes,
output; and waiting for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tests.doubles.kubernetes.nodes.kubelet import Kubelet
from tests.doubles.kubernetes.nodes.worker import Worker
from tests.doubles.kubernetes.objects.kinds import EVENTS, JOBS, PODS, STORED, Resource
from tests.doubles.kubernetes.objects.store import Body, Record, Store, whole
from tests.doubles.kubernetes.objects.wire import decode

T = TypeVar("T")

#: Seconds that :meth:`Views.until` waits at most.
PATIENCE = 20.0
#: It looks again after every change in the cluster, and every so many seconds at what is outside of
#: it.
LOOK = 0.1


class NeverHappened(AssertionError):
    """What was waited for did not come; the message has what the pods looked like instead."""


class Views:
    """The reading half of a :class:`tests.doubles.kubernetes.Cluster`. Objects are copies; pods are
    named by name or uid too.
    """

    store: Store
    folder: Path
    namespace: str
    kubelets: Mapping[str, Kubelet]

    def watch_changes(self) -> None:
        """Be woken by changes."""
        self._changed = threading.Condition(self.store.lock)
        for resource in STORED:
            self.store.subscribe(resource, lambda change: self._changed.notify_all())

    def pods(self, namespace: str | None = None) -> list[Body]:
        """All pods, of one namespace if it is named, the oldest first."""
        return self._all(PODS, namespace)

    def jobs(self, namespace: str | None = None) -> list[Body]:
        """All Jobs, the oldest first."""
        return self._all(JOBS, namespace)

    def events_of(self, name: str, namespace: str | None = None) -> list[Body]:
        """The events about an object of this name."""
        return [
            event
            for event in self._all(EVENTS, namespace)
            if event["involvedObject"]["name"] == name
        ]

    def job(self, name: str, namespace: str | None = None) -> Body | None:
        """One Job, None if it is not there."""
        return self._one(JOBS, name, namespace)

    def pod(self, name: str, namespace: str | None = None) -> Body | None:
        """One pod, None if it is not there."""
        return self._one(PODS, name, namespace)

    def pod_of(self, job: str, namespace: str | None = None) -> Body | None:
        """The latest pod of a Job, None if it has none."""
        label = "batch.kubernetes.io/job-name"
        found = [
            pod
            for pod in self.pods(namespace or self.namespace)
            if (pod["metadata"].get("labels") or {}).get(label) == job
        ]
        return found[-1] if found else None

    def pids(self, pod: Body | str) -> list[int]:
        """The processes of a pod, the first one of its container first; also of a pod whose object
        is gone.
        """
        with self.store.lock:
            workers = [worker for worker in self.workers() if _is(worker.pod, pod)]
        return [pid for worker in workers for pid in worker.pids()]

    def log(self, pod: Body | str, container: str = "") -> str:
        """What a container has written so far, the first one unless it is named; empty if there is
        none.
        """
        with self.store.lock:
            known = [worker.pod for worker in self.workers()] + list(self.store.bodies(PODS))
            body = next(
                (item for item in known if _is(item, pod)), pod if isinstance(pod, dict) else None
            )
            if body is None:
                return ""
            name = container or body["spec"]["containers"][0]["name"]
            path = self.folder / body["metadata"]["uid"] / name / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def until(self, predicate: Callable[[], T], seconds: float = PATIENCE) -> T:
        """Wait until something is true.

        Args:
            predicate: what it is; the value that is true is returned.
            seconds: how long at most.

        Raises:
            NeverHappened: it did not come.
        """
        end = time.monotonic() + seconds
        while True:
            version = self.store.version
            value = predicate()
            if value:
                return value
            left = end - time.monotonic()
            if left <= 0:
                raise NeverHappened(f"not within {seconds} s; pods: {self._summary()}")
            with self._changed:
                if self.store.version == version:
                    self._changed.wait(min(left, LOOK))

    def workers(self) -> list[Worker]:
        """The kubelets' work, under the store's lock."""
        return [worker for kubelet in self.kubelets.values() for worker in kubelet.workers.values()]

    def _all(self, resource: Resource, namespace: str | None) -> list[Body]:
        with self.store.lock:
            data = [record.data for record in self.store.unsorted(resource, namespace or "")]
        return [_copy(resource, item) for item in data]

    def _one(self, resource: Resource, name: str, namespace: str | None) -> Body | None:
        with self.store.lock:
            record: Record | None = self.store.record(resource, namespace or self.namespace, name)
            return None if record is None else _copy(resource, record.data)

    def _summary(self) -> str:
        told = []
        for pod in self.pods():
            states = [status["state"] for status in pod["status"].get("containerStatuses", ())]
            deleted = " deleted" if "deletionTimestamp" in pod["metadata"] else ""
            told.append(
                f"{pod['metadata']['name']}: {pod['status'].get('phase')}{deleted} {states}"
            )
        return "; ".join(told) or "none"


def _copy(resource: Resource, data: bytes) -> Body:
    body: Body = decode(whole(resource, data))
    return body


def _is(pod: Body, wanted: Body | str) -> bool:
    metadata = pod["metadata"]
    if isinstance(wanted, str):
        return wanted in (metadata["name"], metadata["uid"])
    return bool(metadata["uid"] == wanted["metadata"]["uid"])
