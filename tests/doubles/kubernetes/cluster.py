"""The double put together: an API server, its controllers, and nodes that run containers."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.doubles.kubernetes.api.access import Access, Rule, User
from tests.doubles.kubernetes.api.fault_injection import Trouble
from tests.doubles.kubernetes.api.server import Api
from tests.doubles.kubernetes.control import Control
from tests.doubles.kubernetes.controllers.collector import Collector
from tests.doubles.kubernetes.controllers.job_controller import JobController
from tests.doubles.kubernetes.controllers.node_controller import Node, NodeController
from tests.doubles.kubernetes.controllers.scheduler import Scheduler
from tests.doubles.kubernetes.engine.loop import Engine
from tests.doubles.kubernetes.faults import Faults
from tests.doubles.kubernetes.http.front import Front
from tests.doubles.kubernetes.http.messages import RequestLog
from tests.doubles.kubernetes.nodes.images import Image
from tests.doubles.kubernetes.nodes.kubelet import Kubelet
from tests.doubles.kubernetes.nodes.pod_logs import PodLogs
from tests.doubles.kubernetes.nodes.runtime import ProcessRuntime, Runtime
from tests.doubles.kubernetes.nodes.scripted import SECONDS, ScriptedRuntime
from tests.doubles.kubernetes.objects import fit
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.kinds import (
    CONFIG_MAPS,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    Resource,
)
from tests.doubles.kubernetes.objects.quantity import parse
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import Body, Change, Store
from tests.doubles.kubernetes.objects.wire import decode, encode
from tests.doubles.kubernetes.preload import preload
from tests.doubles.kubernetes.views import Views


class Cluster(Views):
    """A Kubernetes cluster on this machine; see the package's docstring for its use.

    Args:
        directory: for logs, containers' folders and kubeconfigs.
        pace: what the delays of controllers, scheduler and kubelets are multiplied with; 1 is a
            real cluster's.
        manifest_pace: the same for seconds that manifests state (grace, deadlines, time to live).
        latency: seconds that every request takes longer.
        nodes: the nodes; one with eight GPUs unless told.
        images: the images by name; more can be put into :attr:`images` at any time.
        namespace: one that exists from the start, beside ``default``.
        port: of the API server, 0 for any that is free.
        bookmarks: seconds between the bookmarks of a watch.
        processes: False: containers are only timers (see
            :mod:`tests.doubles.kubernetes.nodes.scripted`).
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
        namespace: str = "default",
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
        self.scripted = ScriptedRuntime(self.engine)
        self._processes = ProcessRuntime() if processes else None
        self._closed = False
        with self.store.lock:
            self.jobs_controller = JobController(
                self.registry, self.events, self.engine, manifest_pace
            )
            self.collector = Collector(self.registry, self.engine, manifest_pace)
            self.scheduler = Scheduler(self.registry, self.events, self.engine)
            self.node_controller = NodeController(self.registry, self.events, self.engine)
            self.store.subscribe(PODS, self._pod_changed)
            self.watch_changes()
        for space in dict.fromkeys(("default", "kube-system", namespace)):
            self.add_namespace(space)
        for node in nodes if nodes is not None else [Node()]:
            self.add_node(node)
        self.faults = Faults(self)
        control = Control(self)
        logs = PodLogs(self.folder, self._container_ended)
        failures = self.engine.failures
        self.api = Api(
            self.registry,
            self.access,
            logs,
            self.trouble,
            self.requests,
            bookmarks,
            control.answer,
            failures,
        )
        self.front = Front(self.api.handle, port)
        self._control = Front(lambda request, _: control.answer(request))
        self.token = self.access.admit(
            User("kubernetes-admin", groups=("kubeadm:cluster-admins", "system:authenticated"))
        )
        self.kubeconfig = self.kubeconfig_for(self.token)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error is None and self.engine.failures:
            raise RuntimeError(
                "the cluster's double failed; see the log"
            ) from self.engine.failures[0]

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
        if self._processes is not None:
            self._processes.close()

    def create(
        self, resource: Resource, body: Mapping[str, Any], namespace: str | None = None
    ) -> Body:
        """Create an object without HTTP; a copy of it.

        Raises:
            Refused: as the API server would.
        """
        space = (namespace or self.namespace) if resource.namespaced else ""
        with self.store.lock:
            made, _ = self.registry.create(resource, space, body)
            copy: Body = decode(encode(made))
        return copy

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
            self.kubelets[node.name] = Kubelet(node, address, self)
            self.store.add(NODES, node.body(address))

    def preload(self, jobs: Iterable[Mapping[str, Any]], namespace: str | None = None) -> list[str]:
        """Store Jobs, each with a pod that runs already as a timer (as its annotations say); the
        names of the pods.
        """
        return preload(self, jobs, namespace or self.namespace)

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
            rules: of a Role: ``{"apiGroups": ["batch"], "resources": ["jobs"], "verbs":
                ["create"]}``.
            namespaces: where these hold, everywhere if None.
            cluster_rules: of a ClusterRole that holds everywhere.
        """
        return self.access.admit(User(name, rules, namespaces, cluster_rules))

    def kubeconfig_for(self, token: str, namespace: str | None = None) -> Path:
        """Write a kubeconfig for a token; its path."""
        context = {"cluster": "double", "user": "user", "namespace": namespace or self.namespace}
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": {"server": self.url}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "double", "context": context}],
            "current-context": "double",
        }
        path = self.directory / f"kubeconfig-{token[:8]}.json"
        path.write_bytes(encode(body))
        return path

    def runtime_for(self, pod: Body) -> Runtime:
        """What runs a pod's containers: timers if nothing is to run, or if its annotations script
        it.
        """
        scripted = SECONDS in (pod["metadata"].get("annotations") or {})
        return self.scripted if scripted or self._processes is None else self._processes

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
                f"Pod was rejected: Predicate NodeAffinity failed: {fit.AFFINITY}",
            )
        used = self.scheduler.used(node)
        for name, amount in fit.requests(pod).items():
            capacity = parse(body["status"]["allocatable"].get(name, "0"))
            if used.get(name, 0) > capacity:  # the pod itself is counted already
                told = f"requested: {amount}, used: {used[name] - amount}, capacity: {capacity}"
                return (
                    f"OutOf{name}",
                    f"Pod was rejected: Node didn't have enough resource: {name}, {told}",
                )
        return None

    def _pod_changed(self, change: Change) -> None:
        kubelet = self.kubelets.get(change.fields["spec.nodeName"])
        if kubelet is not None:
            metadata = change.body["metadata"]
            kubelet.changed(metadata["namespace"], metadata["name"], metadata["uid"])

    def _container_ended(self, uid: str, name: str) -> bool:
        with self.store.lock:
            for worker in self.workers():
                if worker.uid == uid:
                    return any(
                        item.name == name and item.exit is not None
                        for item in worker.state.containers
                    )
        return True
