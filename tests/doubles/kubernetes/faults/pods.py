"""Faults of pods. A pod is named by its name or its uid."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from tests.doubles.kubernetes.controllers.scheduler import Scheduler
from tests.doubles.kubernetes.nodes.fleet import Fleet
from tests.doubles.kubernetes.nodes.worker import Worker
from tests.doubles.kubernetes.objects.bodies import Body, key_of
from tests.doubles.kubernetes.objects.deletion import Deletion, disrupt, evict
from tests.doubles.kubernetes.objects.errors import Refused, not_found
from tests.doubles.kubernetes.objects.kinds import PODS
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import Store


@dataclass(kw_only=True)
class PodFaults:
    """Faults of one pod."""

    store: Store
    registry: Registry
    fleet: Fleet
    scheduler: Scheduler

    def oom_kill(self, pod: str, container: str = "") -> None:
        """Kill the containers of a pod, or one, as the kernel does at the memory limit."""
        with self._worker(pod) as worker:
            worker.kill(oom=True, name=container)

    def kill(self, pod: str) -> None:
        """Send SIGKILL to the containers of a pod, from outside the cluster."""
        with self._worker(pod) as worker:
            worker.kill()

    def evict(self, pod: str) -> None:
        """Evict a pod through the API, as a drain does."""
        body = self._pod(pod)
        evict(self.store, *key_of(body), Deletion(uid=body["metadata"]["uid"]))

    def evict_for_pressure(
        self, pod: str, message: str = "The node was low on resource: memory. "
    ) -> None:
        """Evict a pod as a kubelet under node pressure does: the object stays."""
        with self._worker(pod) as worker:
            disrupt(worker.pod, "TerminationByKubelet", message)
            self.store.save(PODS, worker.pod)
            worker.evict(message)

    def preempt(self, pod: str) -> None:
        """Delete a pod as the scheduler does for a pod of a higher priority."""
        with self.store.lock:
            self.scheduler.preempt(self._pod(pod), "Preempted by a pod of a higher priority")

    def delete_pod(self, pod: str, grace: int | None = None) -> None:
        """Delete a pod as ``kubectl delete`` does."""
        with self.store.lock:
            self.registry.delete(PODS, *key_of(self._pod(pod)), Deletion(grace=grace))

    def force_delete(self, pod: str) -> None:
        """Remove the object of a pod at once. Its processes run on until :meth:`kill` or the end of
        the cluster.
        """
        with self.store.lock:
            body = self._pod(pod)
            body["metadata"].pop("finalizers", None)
            for kubelet in self.fleet.kubelets.values():
                kubelet.ignored.add(body["metadata"]["uid"])
            self.registry.delete(PODS, *key_of(body), Deletion(grace=0))

    def _pod(self, pod: str) -> Body:
        with self.store.lock:
            for body in self.store.bodies(PODS):
                if pod in (body["metadata"]["name"], body["metadata"]["uid"]):
                    return body
        raise not_found(PODS, pod)

    @contextlib.contextmanager
    def _worker(self, pod: str) -> Iterator[Worker]:
        with self.store.lock:
            for worker in self.fleet.workers():
                if pod in (worker.pod["metadata"]["name"], worker.uid):
                    yield worker
                    return
        raise Refused(404, "NotFound", f'no node runs a pod "{pod}"')
