"""All nodes of a cluster: their kubelets, and the runtimes of their containers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.doubles.kubernetes.engine.loop import Engine
from tests.doubles.kubernetes.nodes.host import Host
from tests.doubles.kubernetes.nodes.images import Image
from tests.doubles.kubernetes.nodes.kubelet import Kubelet, Rejection
from tests.doubles.kubernetes.nodes.processes import ProcessRuntime
from tests.doubles.kubernetes.nodes.reporter import Reporter
from tests.doubles.kubernetes.nodes.runtime import Runtime
from tests.doubles.kubernetes.nodes.scripted import SECONDS, ScriptedRuntime
from tests.doubles.kubernetes.nodes.timers import KubeletTimers
from tests.doubles.kubernetes.nodes.worker import Worker
from tests.doubles.kubernetes.objects import fit
from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.kinds import NODES, PODS
from tests.doubles.kubernetes.objects.node import Node
from tests.doubles.kubernetes.objects.quantity import parse
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import Change


class Fleet:
    """The kubelets by node name.

    Args:
        registry: the objects.
        events: takes the kubelets' events.
        engine: runs the kubelets' calls.
        folder: the parent of the pods' folders.
        images: the images of the registry by name.
        used: returns the sum of the requests of a node's pods.
        processes: False: every container is a timer.
    """

    def __init__(
        self,
        registry: Registry,
        events: EventLog,
        engine: Engine,
        folder: Path,
        images: Mapping[str, Image],
        used: Callable[[str], fit.Amounts],
        *,
        processes: bool,
    ) -> None:
        self.kubelets: dict[str, Kubelet] = {}
        self.rejections: dict[str, Rejection] = {}
        """Node → reason and message with which it rejects new pods."""
        self.scripted = ScriptedRuntime(engine)
        self._processes = ProcessRuntime() if processes else None
        self._registry = registry
        self._store = registry.store
        self._events = events
        self._engine = engine
        self._folder = folder
        self._images = images
        self._used = used
        self._store.subscribe(PODS, self._pod_changed)

    def join(self, node: Node) -> None:
        """Add a node."""
        with self._store.lock:
            host = Host(
                node.name,
                f"10.88.0.{len(self.kubelets) + 1}",
                self._folder,
                self._store,
                self._images,
                self._runtime_for,
                KubeletTimers(self._engine),
                Reporter(node.name, self._registry, self._events),
            )
            kubelet = Kubelet(node, host, lambda pod: self._reject(node.name, pod))
            self.kubelets[node.name] = kubelet
            kubelet.register()

    def close(self) -> None:
        """Kill all containers."""
        if self._processes is not None:
            self._processes.close()

    def workers(self) -> list[Worker]:
        """Return the pod workers of all nodes. The caller holds the store's lock."""
        return [worker for kubelet in self.kubelets.values() for worker in kubelet.workers.values()]

    def container_ended(self, uid: str, name: str) -> bool:
        """Whether a container of a pod has ended, or no node has the pod."""
        with self._store.lock:
            for worker in self.workers():
                if worker.uid == uid:
                    return any(
                        item.name == name and item.exit is not None
                        for item in worker.state.containers
                    )
        return True

    def _pod_changed(self, change: Change) -> None:
        kubelet = self.kubelets.get(change.fields["spec.nodeName"])
        if kubelet is not None:
            metadata = change.body["metadata"]
            kubelet.pod_changed(metadata["namespace"], metadata["name"], metadata["uid"])

    def _runtime_for(self, pod: Body) -> Runtime:
        scripted = SECONDS in (pod["metadata"].get("annotations") or {})
        return self.scripted if scripted or self._processes is None else self._processes

    def _reject(self, node: str, pod: Body) -> Rejection | None:
        """Return why a node rejects a pod that was bound to it, None if it admits the pod."""
        if node in self.rejections:
            return self.rejections[node]
        body = self._store.get(NODES, "", node)
        if body is None:
            return None
        if not fit.matches(pod["spec"], body):
            message = f"Pod was rejected: Predicate NodeAffinity failed: {fit.AFFINITY}"
            return "NodeAffinity", message
        used = self._used(node)
        for name, amount in fit.requests(pod).items():
            capacity = parse(body["status"]["allocatable"].get(name, "0"))
            if used.get(name, 0) > capacity:  # the sum includes this pod
                amounts = f"requested: {amount}, used: {used[name] - amount}, capacity: {capacity}"
                message = f"Pod was rejected: Node didn't have enough resource: {name}, {amounts}"
                return f"OutOf{name}", message
        return None
