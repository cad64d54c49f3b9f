"""Faults of nodes and of their kubelets."""

from __future__ import annotations

from dataclasses import dataclass

from tests.doubles.kubernetes.controllers.node_controller import NodeController
from tests.doubles.kubernetes.nodes.fleet import Fleet
from tests.doubles.kubernetes.objects.deletion import Deletion
from tests.doubles.kubernetes.objects.kinds import NODES
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import Store
from tests.doubles.kubernetes.objects.wire import stamp

_CORDONED = "node.kubernetes.io/unschedulable"


@dataclass(kw_only=True)
class NodeFaults:
    """Faults of one node, or of all."""

    store: Store
    registry: Registry
    fleet: Fleet
    node_controller: NodeController

    def slow_pulls(self, seconds: float, node: str | None = None) -> None:
        """Let pulls take longer, on one node or on all."""
        with self.store.lock:
            for name, kubelet in self.fleet.kubelets.items():
                if node in (None, name):
                    kubelet.host.slow_pulls = seconds

    def registries_answer(self, status: int) -> None:
        """Let every registry answer each pull with a status: 200, 401, 404, 429 or 503."""
        with self.store.lock:
            for kubelet in self.fleet.kubelets.values():
                kubelet.host.registry_answer = status

    def no_sandboxes(self, why: str, node: str | None = None) -> None:
        """Let the runtimes of one node, or of all, create no sandbox, until ``why`` is empty."""
        with self.store.lock:
            for name, kubelet in self.fleet.kubelets.items():
                if node in (None, name):
                    kubelet.host.no_sandbox = why

    def kubelet_down(self, node: str, *, evict_after: float | None = None) -> None:
        """Kill a kubelet. Containers run on; the node becomes unreachable, its pods are evicted.

        Args:
            node: the node of the kubelet.
            evict_after: seconds from the taint to the eviction; None: as the tolerations state.
        """
        with self.store.lock:
            self.fleet.kubelets[node].die()
            self.node_controller.kubelet_silent(node, evict_after=evict_after)

    def kubelet_up(self, node: str) -> None:
        """Start a kubelet again. It reports its containers and ends those of deleted pods.

        A kubelet whose Node object was deleted creates it again.
        """
        with self.store.lock:
            kubelet = self.fleet.kubelets[node]
            kubelet.register()
            self.node_controller.kubelet_reports(node)
            kubelet.revive()

    def node_lost(self, node: str, evict_after: float = 0.0) -> None:
        """Lose a node. Its kubelet is silent, and its pods become unready and are evicted, while
        their processes run on.
        """
        self.kubelet_down(node, evict_after=evict_after)

    def node_back(self, node: str) -> None:
        """Get a lost node back; the same as :meth:`kubelet_up`."""
        self.kubelet_up(node)

    def node_deleted(self, node: str) -> None:
        """Delete a Node object. Its pods are deleted, while their processes run on."""
        with self.store.lock:
            self.registry.delete(NODES, "", node, Deletion())

    def cordon(self, node: str, *, on: bool = True) -> None:
        """Cordon a node, as ``kubectl cordon`` and its controller do; ``on=False`` undoes it."""
        with self.store.lock:
            body = self.store.get(NODES, "", node)
            if body is None:
                raise KeyError(node)
            spec = {**body["spec"]}
            taints = [each for each in spec.pop("taints", []) if each["key"] != _CORDONED]
            spec.pop("unschedulable", None)
            if on:
                taints.append({"key": _CORDONED, "effect": "NoSchedule", "timeAdded": stamp()})
                spec["unschedulable"] = True
            body["spec"] = {**spec, **({"taints": taints} if taints else {})}
            self.store.save(NODES, body)

    def reject_pods(
        self,
        message: str | None,
        reason: str = "UnexpectedAdmissionError",
        node: str | None = None,
    ) -> None:
        """Let one node, or all, reject new pods with a message; None: let them admit pods again."""
        with self.store.lock:
            for name in self.fleet.kubelets if node is None else (node,):
                if message is None:
                    self.fleet.rejections.pop(name, None)
                else:
                    self.fleet.rejections[name] = (reason, message)
