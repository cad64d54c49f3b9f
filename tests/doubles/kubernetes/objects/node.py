"""The Node object: what a test asks for, and its Ready condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.kinds import VERSION
from tests.doubles.kubernetes.objects.wire import stamp


@dataclass(frozen=True, slots=True)
class Node:
    """A node that a cluster gets.

    Args:
        name: the name, also the label ``kubernetes.io/hostname``.
        labels: more labels.
        taints: the taints, as in the manifest.
        resources: allocatable resources beside cpu, memory and pods.
        cpu: the number of cores.
        memory: the memory, as a quantity.
        pods: the highest number of pods.
    """

    name: str = "node-a"
    labels: Mapping[str, str] = field(
        default_factory=lambda: {"nvidia.com/device-plugin.config": "tesla-t4"}
    )
    taints: Sequence[Mapping[str, str]] = ()
    resources: Mapping[str, str] = field(default_factory=lambda: {"nvidia.com/gpu": "8"})
    cpu: str = "64"
    memory: str = "256Gi"
    pods: str = "110"

    def body(self, address: str) -> Body:
        """Return the Node object of a node at an address."""
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            **self.labels,
        }
        amounts = {"cpu": self.cpu, "memory": self.memory, "pods": self.pods, **self.resources}
        return {
            "metadata": {"name": self.name, "labels": labels},
            "spec": {"taints": [dict(taint) for taint in self.taints]} if self.taints else {},
            "status": {
                "capacity": dict(amounts),
                "allocatable": dict(amounts),
                "addresses": [
                    {"type": "InternalIP", "address": address},
                    {"type": "Hostname", "address": self.name},
                ],
                "conditions": [READY.condition()],
                "nodeInfo": {
                    "kubeletVersion": VERSION,
                    "operatingSystem": "linux",
                    "architecture": "amd64",
                },
            },
        }


@dataclass(frozen=True, slots=True)
class Readiness:
    """What a node's Ready condition says."""

    status: str
    reason: str
    message: str

    def condition(self) -> Body:
        """Return the condition, from now on."""
        now = stamp()
        return {
            "type": "Ready",
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }


READY = Readiness("True", "KubeletReady", "kubelet is posting ready status")
SILENT = Readiness("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
