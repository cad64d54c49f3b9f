"""The double put together: an API server, its controllers, and nodes that run containers."""

from __future__ import annotations

import base64
import copy
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from gpuqueue.testing.cluster import fit
from gpuqueue.testing.cluster.access import Access, Rule, User
from gpuqueue.testing.cluster.api import Api
from gpuqueue.testing.cluster.collector import Collector
from gpuqueue.testing.cluster.control import Control
from gpuqueue.testing.cluster.engine import Engine
from gpuqueue.testing.cluster.eventlog import EventLog
from gpuqueue.testing.cluster.faults import Faults
from gpuqueue.testing.cluster.images import Image
from gpuqueue.testing.cluster.jobs import JobController
from gpuqueue.testing.cluster.kinds import CONFIG_MAPS, EVENTS, JOBS, NAMESPACES, NODES, PODS, SECRETS, STORED, Resource
from gpuqueue.testing.cluster.kubelet import Kubelet
from gpuqueue.testing.cluster.nodes import Node, NodeController
from gpuqueue.testing.cluster.podlogs import PodLogs
from gpuqueue.testing.cluster.quantity import parse
from gpuqueue.testing.cluster.registry import Registry
from gpuqueue.testing.cluster.request import RequestLog
from gpuqueue.testing.cluster.runtime import ProcessRuntime, Runtime
from gpuqueue.testing.cluster.scheduler import Scheduler
from gpuqueue.testing.cluster.scripted import SECONDS, ScriptedRuntime
from gpuqueue.testing.cluster.server import Front
from gpuqueue.testing.cluster.store import Body, Store
from gpuqueue.testing.cluster.trouble import Trouble
from gpuqueue.testing.cluster.wire import encode
from gpuqueue.testing.cluster.worker import Worker

T = TypeVar("T")

NAMESPACE = "default"
#: Seconds that :meth:`Cluster.until` waits at most.
PATIENCE = 20.0


class NeverHappened(AssertionError):
    """What was waited for did not come; the message has what the pods looked like instead."""


class Cluster:
    """A Kubernetes cluster on this machine; see the package's docstring for its use.

    Args:
        directory: for logs, containers' folders and the kubeconfig.
        pace: what the delays of controllers, scheduler and kubelets are multiplied with; 1 is a real cluster's.
        manifest_pace: the same for seconds that manifests state (grace, deadlines, time to live).
        latency: seconds that every request takes longer.
        nodes: the nodes; one with eight GPUs unless told.
        images: the images by name; more can be put into :attr:`images` at any time.
        namespace: one that exists from the start, beside ``default``.
        port: of the API server, 0 for any that is free.
        bookmarks: seconds between the bookmarks of a watch.
        processes: False: containers are only timers (see :mod:`gpuqueue.testing.cluster.scripted`).
        events: False: no events are written.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        pace: float = 0.05,
        manifest_pace: float = 1.0,
        latency: float = 0.0,
        nodes: Sequence[Node] | None = None,
        images: Mapping[str, Image] | None = None,
        namespace: str = NAMESPACE,
        port: int = 0,
        bookmarks: float = 60.0,
        processes: bool = True,
        events: bool = True,
    ) -> None:
        self.directory = Path(directory)
        self.folder = self.directory / "pods"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.images: dict[str, Image] = dict(images or {})
        self.namespace = namespace
        self.manifest_pace = manifest_pace
        self.requests = RequestLog()
        self.store = Store()
        self.registry = Registry(self.store)
        self.engine = Engine(self.store.lock, pace)
        self.events = EventLog(self.store, enabled=events)
        self.access = Access()
        self.trouble = Trouble(latency)
        self.kubelets: dict[str, Kubelet] = {}
        self.rejection: tuple[str, str] | None = None
        """Reason and message with which nodes reject new pods; see :meth:`Faults.reject_pods`."""
        self._processes = ProcessRuntime()
        self._scripted = ScriptedRuntime(self.engine)
        self._runs_processes = processes
        self._changed = threading.Condition(self.store.lock)
        self._closed = False
        with self.store.lock:
            for space in dict.fromkeys(("default", "kube-system", namespace)):
                self.registry.create(NAMESPACES, "", {"metadata": {"name": space}})
            self.jobs_controller = JobController(self.registry, self.events, self.engine, manifest_pace)
            self.collector = Collector(self.registry, self.engine, manifest_pace)
            self.scheduler = Scheduler(self.registry, self.events, self.engine)
            self.node_controller = NodeController(self.registry, self.events, self.engine)
            self.store.subscribe(PODS, self._pod_changed)
            for resource in STORED:
                self.store.subscribe(resource, lambda change: self._changed.notify_all())
            for node in nodes if nodes is not None else [Node()]:
                self.add_node(node)
        self.faults = Faults(self)
        self.token = self.access.admit(User("kubernetes-admin", groups=("kubeadm:cluster-admins", "system:authenticated")))
        control = Control(self)
        logs = PodLogs(self.folder, self._container_ended)
        self.api = Api(
            self.registry, self.access, logs, self.trouble, self.requests, bookmarks, control.answer, self.engine.failures
        )
        self.front = Front(self.api.handle, port)
        self._control = Front(lambda request, _: control.answer(request))
        self.kubeconfig = self.kubeconfig_for(self.token)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        if error is None and self.engine.failures:
            raise RuntimeError("the cluster's double failed; see the log") from self.engine.failures[0]

    @property
    def url(self) -> str:
        """Where the API server listens."""
        return f"http://127.0.0.1:{self.front.port}"

    @property
    def control_url(self) -> str:
        """Where faults can be asked for over HTTP, also while the front is down."""
        return f"http://127.0.0.1:{self._control.port}/_double"

    def close(self) -> None:
        """Stop everything; every process that was started is killed."""
        if self._closed:
            return
        self._closed = True
        self.front.down()
        self._control.down()
        self.engine.close()
        self._processes.close()

    # -- what is in it ----------------------------------------------------------------------------------------------

    def pods(self, namespace: str | None = None) -> list[Body]:
        """Copies of all pods, of one namespace if it is named."""
        return self._all(PODS, namespace)

    def jobs(self, namespace: str | None = None) -> list[Body]:
        """Copies of all Jobs."""
        return self._all(JOBS, namespace)

    def events_of(self, name: str, namespace: str | None = None) -> list[Body]:
        """Copies of the events about an object of this name."""
        return [event for event in self._all(EVENTS, namespace) if event["involvedObject"]["name"] == name]

    def job(self, name: str, namespace: str | None = None) -> Body | None:
        """A copy of one Job, None if it is not there."""
        return self._one(JOBS, name, namespace)

    def pod(self, name: str, namespace: str | None = None) -> Body | None:
        """A copy of one pod, None if it is not there."""
        return self._one(PODS, name, namespace)

    def pod_of(self, job: str, namespace: str | None = None) -> Body | None:
        """A copy of the latest pod of a Job, None if it has none."""
        found = [pod for pod in self.pods(namespace or self.namespace) if _made_by(pod, job)]
        return max(found, key=lambda pod: int(pod["metadata"]["resourceVersion"]), default=None)

    def pids(self, pod: Body | str) -> list[int]:
        """The processes of a pod (or of the pod of this name or uid), the first of its container first. Gone pods count too."""
        with self.store.lock:
            workers = [worker for worker in self._workers() if _is(worker.pod, pod)]
        return [pid for worker in workers for pid in worker.pids()]

    def log(self, pod: Body | str, container: str = "") -> str:
        """What a container has written so far, the first one's unless it is named."""
        with self.store.lock:
            found = [worker for worker in self._workers() if _is(worker.pod, pod)]
            body = found[0].pod if found else pod if isinstance(pod, dict) else None
            if body is None:
                body = next(item for item in self.store.bodies(PODS) if _is(item, pod))
            path = self.folder / body["metadata"]["uid"] / (container or body["spec"]["containers"][0]["name"]) / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def until(self, predicate: Callable[[], T], seconds: float = PATIENCE) -> T:
        """Wait until something is true of the cluster; it is looked at after every change, and now and then.

        Args:
            predicate: what it is; its value is returned.
            seconds: how long.

        Raises:
            NeverHappened: it did not come.
        """
        with self._changed:
            found: list[T] = []

            def holds() -> bool:
                value = predicate()
                if value:
                    found[:] = [value]
                return bool(value)

            if not self._wait(holds, seconds):
                raise NeverHappened(f"not within {seconds} s; pods: {self._summary()}")
            return found[0]

    # -- what is put into it ----------------------------------------------------------------------------------------

    def create(self, resource: Resource, body: Mapping[str, Any], namespace: str | None = None) -> Body:
        """Create an object without HTTP; a copy of it.

        Raises:
            Refused: as the API server would.
        """
        space = (namespace or self.namespace) if resource.namespaced else ""
        with self.store.lock:
            made, _ = self.registry.create(resource, space, copy.deepcopy(dict(body)))
            return copy.deepcopy(made)

    def secret(self, name: str, data: Mapping[str, str], namespace: str | None = None) -> Body:
        """Create a Secret with this plain data."""
        coded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        return self.create(SECRETS, {"metadata": {"name": name}, "data": coded}, namespace)

    def config_map(self, name: str, data: Mapping[str, str], namespace: str | None = None) -> Body:
        """Create a ConfigMap."""
        return self.create(CONFIG_MAPS, {"metadata": {"name": name}, "data": dict(data)}, namespace)

    def add_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> Body:
        """Create a namespace."""
        return self.create(NAMESPACES, {"metadata": {"name": name, "labels": dict(labels or {})}})

    def add_node(self, node: Node) -> None:
        """Let a node join."""
        address = f"10.88.0.{len(self.kubelets) + 1}"
        with self.store.lock:
            self.kubelets[node.name] = Kubelet(node.name, address, self, node)
            self.store.add(NODES, node.body(address))

    def user(
        self,
        name: str,
        rules: Sequence[Rule],
        namespaces: Sequence[str] | None = None,
        cluster_rules: Sequence[Rule] = (),
    ) -> str:
        """Let somebody in who may do only this; their token (see :meth:`kubeconfig_for`).

        Args:
            name: as refusals give it, such as ``system:serviceaccount:ml:dispatcher``.
            rules: of a Role: ``{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]}``.
            namespaces: where these hold, everywhere if None.
            cluster_rules: of a ClusterRole that holds everywhere.
        """
        return self.access.admit(User(name, rules, namespaces, cluster_rules))

    def kubeconfig_for(self, token: str, namespace: str | None = None) -> Path:
        """Write a kubeconfig for a token; its path."""
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": {"server": self.url}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [
                {"name": "double", "context": {"cluster": "double", "user": "user", "namespace": namespace or self.namespace}}
            ],
            "current-context": "double",
        }
        path = self.directory / f"kubeconfig-{token[:8]}.json"
        path.write_bytes(encode(body))
        return path

    # -- what its parts ask of it -----------------------------------------------------------------------------------

    def runtime_for(self, pod: Body) -> Runtime:
        """What runs a pod's containers: timers if nothing is to run, or if its annotations script it."""
        scripted = SECONDS in (pod["metadata"].get("annotations") or {})
        return self._scripted if scripted or not self._runs_processes else self._processes

    def refusal(self, node: str, pod: Body) -> tuple[str, str] | None:
        """Why a node does not take a pod that was bound to it, None if it does."""
        if self.rejection is not None:
            return self.rejection
        body = self.store.get(NODES, "", node)
        if body is None:
            return None
        if not fit.matches(pod["spec"], body):
            return (
                "NodeAffinity",
                "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            )
        wanted, used = fit.requests(pod), self.scheduler.used(node)
        for name, amount in wanted.items():
            capacity = parse(body["status"]["allocatable"].get(name, "0"))
            if used.get(name, 0) > capacity:  # the pod itself is counted already
                told = f"requested: {amount}, used: {used[name] - amount}, capacity: {capacity}"
                return f"OutOf{name}", f"Pod was rejected: Node didn't have enough resource: {name}, {told}"
        return None

    def _pod_changed(self, change: Any) -> None:
        kubelet = self.kubelets.get(change.body["spec"].get("nodeName", ""))
        if kubelet is not None:
            metadata = change.body["metadata"]
            kubelet.changed(metadata["namespace"], metadata["name"], metadata["uid"])

    def _container_ended(self, uid: str, name: str) -> bool:
        with self.store.lock:
            for worker in self._workers():
                if worker.uid == uid:
                    return any(container.name == name and container.exit is not None for container in worker.containers)
        return True

    def _workers(self) -> list[Worker]:
        return [worker for kubelet in self.kubelets.values() for worker in kubelet.workers.values()]

    def _wait(self, holds: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not holds():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(min(left, 0.25))
        return True

    def _all(self, resource: Resource, namespace: str | None) -> list[Body]:
        with self.store.lock:
            return [copy.deepcopy(body) for body in self.store.bodies(resource, namespace or "")]

    def _one(self, resource: Resource, name: str, namespace: str | None) -> Body | None:
        with self.store.lock:
            return copy.deepcopy(self.store.get(resource, namespace or self.namespace, name))

    def _summary(self) -> str:
        told = []
        for pod in self.store.bodies(PODS):
            states = [status["state"] for status in pod["status"].get("containerStatuses", ())]
            deleted = " deleted" if "deletionTimestamp" in pod["metadata"] else ""
            told.append(f"{pod['metadata']['name']}: {pod['status'].get('phase')}{deleted} {states}")
        return "; ".join(told) or "none"


def _made_by(pod: Body, job: str) -> bool:
    return (pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name") == job


def _is(pod: Body, wanted: Body | str) -> bool:
    metadata = pod["metadata"]
    if isinstance(wanted, str):
        return wanted in (metadata["name"], metadata["uid"])
    return bool(metadata["uid"] == wanted["metadata"]["uid"])
