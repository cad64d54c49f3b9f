"""Faults of nodes and of their kubelets."""

from __future__ import annotations

from dataclasses import dataclass

from tests.doubles.kubernetes.controllers.node_controller import NodeController
from tests.doubles.kubernetes.nodes.fleet import Fleet
from tests.doubles.kubernetes.objects.deletion import Deletion
from tests.doubles.kubernetes.objects.kinds import NODES
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import Store


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

    def reject_pods(self, message: str | None, reason: str = "UnexpectedAdmissionError") -> None:
        """Let all nodes reject new pods with a message; None: let them admit pods again."""
        with self.store.lock:
            self.fleet.rejection = None if message is None else (reason, message)
