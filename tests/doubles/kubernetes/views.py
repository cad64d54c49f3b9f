"""What a test sees of a cluster without a request to its API server: copies of objects, processes
and output. Also the wait for a change.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from tests.doubles.kubernetes.nodes.fleet import Fleet
from tests.doubles.kubernetes.objects.admission.defaults import JOB_NAME
from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.kinds import EVENTS, JOBS, PODS, STORED, Resource
from tests.doubles.kubernetes.objects.store import Store, whole
from tests.doubles.kubernetes.objects.wire import decode

T = TypeVar("T")

#: The longest wait of :meth:`Views.until` in seconds.
PATIENCE = 20.0
#: Seconds between two checks of :meth:`Views.until` while no object changes.
CHECK = 0.1


class NeverHappened(AssertionError):
    """The condition did not become true in time. The message has the states of the pods."""


class Views:
    """The reading half of a :class:`tests.doubles.kubernetes.Cluster`. Objects are copies.

    Args:
        store: the objects.
        fleet: the nodes.
        folder: the parent of the pods' folders.
        namespace: the default namespace.
    """

    def __init__(self, store: Store, fleet: Fleet, folder: Path, namespace: str) -> None:
        self.store = store
        self.fleet = fleet
        self.folder = folder
        self.namespace = namespace
        self._changed = threading.Condition(store.lock)
        for resource in STORED:
            store.subscribe(resource, lambda change: self._changed.notify_all())

    def pods(self, namespace: str | None = None) -> list[Body]:
        """Return all pods, or those of one namespace, oldest first."""
        return self._all(PODS, namespace)

    def jobs(self, namespace: str | None = None) -> list[Body]:
        """Return all Jobs, or those of one namespace, oldest first."""
        return self._all(JOBS, namespace)

    def events_of(self, name: str, namespace: str | None = None) -> list[Body]:
        """Return the events about the objects of a name."""
        return [
            event
            for event in self._all(EVENTS, namespace)
            if event["involvedObject"]["name"] == name
        ]

    def job(self, name: str, namespace: str | None = None) -> Body | None:
        """Return a Job, None if it does not exist."""
        return self._one(JOBS, name, namespace)

    def pod(self, name: str, namespace: str | None = None) -> Body | None:
        """Return a pod, None if it does not exist."""
        return self._one(PODS, name, namespace)

    def pod_of(self, job: str, namespace: str | None = None) -> Body | None:
        """Return the newest pod of a Job, None if it has no pod."""
        pods = [
            pod
            for pod in self.pods(namespace or self.namespace)
            if (pod["metadata"].get("labels") or {}).get(JOB_NAME) == job
        ]
        return pods[-1] if pods else None

    def pids(self, pod: Body | str) -> list[int]:
        """Return the processes of a pod, the first process of its container first.

        The pod is an object, a name or a uid. Its object may be gone.
        """
        with self.store.lock:
            workers = [worker for worker in self.fleet.workers() if _is(worker.pod, pod)]
        return [pid for worker in workers for pid in worker.state.pids()]

    def log(self, pod: Body | str, container: str = "") -> str:
        """Return the output of a container so far; empty if there is none.

        The pod is an object, a name or a uid. The container is the first one unless named.
        """
        with self.store.lock:
            known = [worker.pod for worker in self.fleet.workers()] + list(self.store.bodies(PODS))
            given = pod if isinstance(pod, dict) else None
            body = next((item for item in known if _is(item, pod)), given)
            if body is None:
                return ""
            name = container or body["spec"]["containers"][0]["name"]
            path = self.folder / body["metadata"]["uid"] / name / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def until(
        self, predicate: Callable[[], T | Literal[False] | None], seconds: float = PATIENCE
    ) -> T:
        """Wait until a predicate is true, and return its value.

        Args:
            predicate: the predicate.
            seconds: the longest wait.

        Raises:
            NeverHappened: it did not become true in time.
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
                    self._changed.wait(min(left, CHECK))

    def _all(self, resource: Resource, namespace: str | None) -> list[Body]:
        with self.store.lock:
            data = [record.data for record in self.store.unsorted(resource, namespace or "")]
        return [_copy(resource, item) for item in data]

    def _one(self, resource: Resource, name: str, namespace: str | None) -> Body | None:
        with self.store.lock:
            record = self.store.record(resource, namespace or self.namespace, name)
            return None if record is None else _copy(resource, record.data)

    def _summary(self) -> str:
        lines = []
        for pod in self.pods():
            states = [status["state"] for status in pod["status"].get("containerStatuses", ())]
            deleted = " deleted" if "deletionTimestamp" in pod["metadata"] else ""
            phase = pod["status"].get("phase")
            lines.append(f"{pod['metadata']['name']}: {phase}{deleted} {states}")
        return "; ".join(lines) or "none"


def _copy(resource: Resource, data: bytes) -> Body:
    body: Body = decode(whole(resource, data))
    return body


def _is(pod: Body, wanted: Body | str) -> bool:
    metadata = pod["metadata"]
    if isinstance(wanted, str):
        return wanted in (metadata["name"], metadata["uid"])
    return bool(metadata["uid"] == wanted["metadata"]["uid"])
