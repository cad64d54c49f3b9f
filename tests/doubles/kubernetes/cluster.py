"""The assembly of the double: an API server, controllers, and nodes that run containers."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.doubles.kubernetes.api.access import Access, Rule, User
from tests.doubles.kubernetes.api.fault_injection import FaultInjection
from tests.doubles.kubernetes.api.request_log import RequestLog
from tests.doubles.kubernetes.api.server import CONTROL_PREFIX, ApiServer
from tests.doubles.kubernetes.api.watches import OpenWatches
from tests.doubles.kubernetes.control import Control
from tests.doubles.kubernetes.controllers.autoscaler import Autoscaler
from tests.doubles.kubernetes.controllers.collector import Collector
from tests.doubles.kubernetes.controllers.job_controller import JobController
from tests.doubles.kubernetes.controllers.node_controller import NodeController
from tests.doubles.kubernetes.controllers.scheduler import Scheduler
from tests.doubles.kubernetes.engine.loop import Engine
from tests.doubles.kubernetes.faults import Faults
from tests.doubles.kubernetes.http.connection import Connection
from tests.doubles.kubernetes.http.front import Front
from tests.doubles.kubernetes.http.messages import Request, Response
from tests.doubles.kubernetes.nodes.fleet import Fleet
from tests.doubles.kubernetes.nodes.images import Image
from tests.doubles.kubernetes.nodes.logs import PodLogs
from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.kinds import CONFIG_MAPS, NAMESPACES, SECRETS, Resource
from tests.doubles.kubernetes.objects.node import Node
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import Store
from tests.doubles.kubernetes.objects.wire import decode, encode
from tests.doubles.kubernetes.preload import preload
from tests.doubles.kubernetes.views import Views


class Cluster(Views):
    """A Kubernetes cluster on this machine; see the docstring of the package for its use.

    Args:
        directory: the directory of logs, containers and kubeconfigs.
        pace: the factor for delays of controllers, scheduler and kubelets; 1 is a real cluster.
        manifest_pace: the factor for delays of manifests (grace, deadlines, time to live).
        latency: seconds added to every request.
        nodes: the nodes; by default one with eight GPUs.
        images: the images by name; :attr:`images` takes more at any time.
        namespace: the default namespace; it exists from the start.
        port: the port of the API server, 0 for a free one.
        bookmarks: seconds between the bookmarks of a watch.
        processes: False: containers are timers (see
            :mod:`tests.doubles.kubernetes.nodes.scripted`).
        events: False: controllers and kubelets write no events.
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
        folder = self.directory / "pods"
        folder.mkdir(parents=True, exist_ok=True)
        self.images: dict[str, Image] = dict(images or {})
        self.requests = RequestLog()
        self.access = Access()
        store = Store()
        self.registry = Registry(store)
        self.engine = Engine(store.lock, pace, manifest_pace)
        event_log = EventLog(store, enabled=events)
        self._closed = False
        # The order of subscriptions is the order in which these parts get a change.
        with store.lock:
            job_controller = JobController(self.registry, event_log, self.engine)
            Collector(self.registry, self.engine)
            scheduler = Scheduler(self.registry, event_log, self.engine)
            node_controller = NodeController(self.registry, event_log, self.engine)
            self._autoscaler = Autoscaler(store, event_log, self.engine, scheduler, self.add_node)
            fleet = Fleet(
                self.registry,
                event_log,
                self.engine,
                folder,
                self.images,
                scheduler.used,
                processes=processes,
            )
            super().__init__(store, fleet, folder, namespace)
        for space in dict.fromkeys(("default", "kube-system", namespace)):
            self.add_namespace(space)
        for node in nodes if nodes is not None else [Node()]:
            self.add_node(node)
        injection, watches = FaultInjection(latency), OpenWatches()
        api = ApiServer(
            registry=self.registry,
            access=self.access,
            logs=PodLogs(folder, fleet.container_ended),
            faults=injection,
            requests=self.requests,
            bookmarks=bookmarks,
            control=self._handle_control,
            failures=self.engine.failures,
            watches=watches,
        )
        self.front = Front(api.handle, port)
        self.faults = Faults(
            store=store,
            registry=self.registry,
            engine=self.engine,
            fleet=fleet,
            front=self.front,
            injection=injection,
            watches=watches,
            job_controller=job_controller,
            scheduler=scheduler,
            node_controller=node_controller,
        )
        self._handle = api.handle
        self._doors: list[Front] = []
        self._control = Control(self, self.faults, self.requests, self.images, self.preload)
        self._control_front = Front(self._handle_control)
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
            raise RuntimeError("the double failed; see the log") from self.engine.failures[0]

    @property
    def url(self) -> str:
        """The URL of the API server."""
        return f"http://127.0.0.1:{self.front.port}"

    @property
    def control_url(self) -> str:
        """The control URL. It works also while the API server is down."""
        return f"http://127.0.0.1:{self._control_front.port}{CONTROL_PREFIX.rstrip('/')}"

    def close(self) -> None:
        """Stop the cluster and kill all processes that it has started."""
        if self._closed:
            return
        self._closed = True
        for front in (self.front, *self._doors, self._control_front):
            front.let_through()
            front.down()
        self.engine.close()
        self.fleet.close()

    def create(
        self, resource: Resource, body: Mapping[str, Any], namespace: str | None = None
    ) -> Body:
        """Create an object without HTTP; returns a copy of it.

        Raises:
            Refused: the API server would refuse the object.
        """
        space = (namespace or self.namespace) if resource.namespaced else ""
        with self.store.lock:
            created, _ = self.registry.create(resource, space, body)
            copy: Body = decode(encode(created))
        return copy

    def secret(self, name: str, data: Mapping[str, str], namespace: str | None = None) -> Body:
        """Create a Secret with plain data."""
        coded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        return self.create(SECRETS, {"metadata": {"name": name}, "data": coded}, namespace)

    def config_map(self, name: str, data: Mapping[str, str], namespace: str | None = None) -> Body:
        """Create a ConfigMap."""
        return self.create(CONFIG_MAPS, {"metadata": {"name": name}, "data": dict(data)}, namespace)

    def add_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> Body:
        """Create a namespace."""
        return self.create(NAMESPACES, {"metadata": {"name": name, "labels": dict(labels or {})}})

    def add_node(self, node: Node) -> None:
        """Add a node."""
        self.fleet.join(node)

    def autoscale(self, template: Node, most: int) -> None:
        """Add nodes like a template for pods that no node takes, up to a number of them."""
        self._autoscaler.scale(template, most)

    def preload(self, jobs: Iterable[Mapping[str, Any]], namespace: str | None = None) -> list[str]:
        """Store Jobs, each with a pod that runs already as a timer; returns the pods' names."""
        return preload(self.registry, self.fleet, jobs, namespace or self.namespace)

    def user(
        self,
        name: str,
        rules: Sequence[Rule],
        namespaces: Sequence[str] | None = None,
        cluster_rules: Sequence[Rule] = (),
    ) -> str:
        """Add a user with these rights alone; returns their token (see :meth:`kubeconfig_for`).

        Args:
            name: the name in refusals, such as ``system:serviceaccount:ml:dispatcher``.
            rules: the rules of a Role: ``{"apiGroups": ["batch"], "resources": ["jobs"], "verbs":
                ["create"]}``.
            namespaces: the namespaces where these hold, all if None.
            cluster_rules: the rules of a ClusterRole with a ClusterRoleBinding.
        """
        return self.access.admit(User(name, rules, namespaces, cluster_rules))

    def door(self) -> Front:
        """Open one more port of the API server, for one client: its ``down()`` refuses connections
        and its ``drop()`` drops packets, while other clients go on (see :meth:`kubeconfig_for`).
        """
        door = Front(self._handle)
        self._doors.append(door)
        return door

    def kubeconfig_for(
        self, token: str, namespace: str | None = None, door: Front | None = None
    ) -> Path:
        """Write a kubeconfig with a token, through a door; returns its path."""
        url = f"http://127.0.0.1:{door.port}" if door else self.url
        context = {"cluster": "double", "user": "user", "namespace": namespace or self.namespace}
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": {"server": url}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "double", "context": context}],
            "current-context": "double",
        }
        path = self.directory / f"kubeconfig-{token[:8]}{f'-{door.port}' if door else ''}.json"
        path.write_bytes(encode(body))
        return path

    def _handle_control(self, request: Request, connection: Connection | None = None) -> Response:
        return self._control.handle(request)
