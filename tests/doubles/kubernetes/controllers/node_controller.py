"""The nodes, and the controllers that follow them: silent nodes are tainted, their pods are
evicted, lost pods collected.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.engine.loop import NODE_CONTROLLER as PART
from tests.doubles.kubernetes.engine.loop import Engine, Timer
from tests.doubles.kubernetes.objects.deletion import Deletion, disrupt
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.fit import tolerates
from tests.doubles.kubernetes.objects.kinds import NODES, PODS
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import DELETED, Body, Change, key_of
from tests.doubles.kubernetes.objects.wire import stamp

_UNREACHABLE = "node.kubernetes.io/unreachable"
_EVICTING = "Taint manager: deleting due to NoExecute taint"
_GONE = "PodGC: node no longer exists"


@dataclass(frozen=True, slots=True)
class Node:
    """A node to be.

    Args:
        name: also its ``kubernetes.io/hostname``.
        labels: more labels.
        taints: as in the manifest.
        resources: what it has beside cpu, memory and room for pods.
        cpu: cores.
        memory: a quantity.
        pods: how many it takes.
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
        """Its object."""
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
                "conditions": [_ready("True", "KubeletReady", "kubelet is posting ready status")],
                "nodeInfo": {
                    "kubeletVersion": "v1.36.2",
                    "operatingSystem": "linux",
                    "architecture": "amd64",
                },
            },
        }


class NodeController:
    """Follows the kubelets' silence. Everything runs in the engine's thread."""

    def __init__(self, registry: Registry, events: EventLog, engine: Engine) -> None:
        self._registry = registry
        self._store = registry.store
        self._events = events
        self._engine = engine
        self._silent: dict[str, Timer] = {}
        self._evictions: dict[str, list[Timer]] = {}
        self._store.subscribe(NODES, self._node_changed)

    def silent(self, node: str, *, evict_after: float | None) -> None:
        """A kubelet does not report any more.

        Args:
            node: whose.
            evict_after: real seconds from the taint to the eviction of the pods, instead of their
                tolerations (scaled).
        """
        self._silent[node] = self._engine.after(
            PART, delays.NODE_SILENT, partial(self._unreachable, node, evict_after)
        )

    def heard(self, node: str) -> None:
        """It reports again."""
        timer = self._silent.pop(node, None)
        if timer is not None:
            timer.cancel()
        for eviction in self._evictions.pop(node, []):
            eviction.cancel()
        body = self._store.get(NODES, "", node)
        if body is None:
            return
        taints = [taint for taint in body["spec"].get("taints", []) if taint["key"] != _UNREACHABLE]
        body["spec"] = {
            **{key: value for key, value in body["spec"].items() if key != "taints"},
            **({"taints": taints} if taints else {}),
        }
        _set_ready(body, _ready("True", "KubeletReady", "kubelet is posting ready status"))
        self._store.save(NODES, body)

    def _unreachable(self, node: str, evict_after: float | None) -> None:
        body = self._store.get(NODES, "", node)
        if body is None:
            return
        _set_ready(
            body, _ready("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
        )
        taints = [
            {"key": _UNREACHABLE, "effect": effect, "timeAdded": stamp()}
            for effect in ("NoSchedule", "NoExecute")
        ]
        body["spec"]["taints"] = [*body["spec"].get("taints", []), *taints]
        self._store.save(NODES, body)
        for pod in self._pods_of(node):
            for condition in pod["status"].get("conditions", ()):
                if condition["type"] == "Ready" and condition["status"] == "True":
                    condition |= {"status": "False", "lastTransitionTime": stamp()}
            self._events.tell(
                PODS,
                pod,
                "NodeNotReady",
                "Node is not ready",
                component="node-controller",
                warning=True,
            )
            self._store.save(PODS, pod)
            self._evict_later(node, pod, taints[1], evict_after)

    def _evict_later(self, node: str, pod: Body, taint: Body, evict_after: float | None) -> None:
        seconds = [
            item.get("tolerationSeconds")
            for item in pod["spec"].get("tolerations") or ()
            if tolerates(item, taint)
        ]
        if evict_after is None and seconds and all(value is None for value in seconds):
            return  # it puts up with it for ever
        bounded = [value for value in seconds if value is not None]
        call = partial(self._evict, key_of(pod), pod["metadata"]["uid"])
        if evict_after is None:
            timer = self._engine.after(PART, min(bounded, default=0), call)
        else:
            timer = self._engine.after_exactly(PART, evict_after, call)
        self._evictions.setdefault(node, []).append(timer)

    def _evict(self, key: tuple[str, str], uid: str) -> None:
        pod = self._store.get(PODS, *key)
        if pod is None or pod["metadata"]["uid"] != uid or "deletionTimestamp" in pod["metadata"]:
            return
        told = f"Marking for deletion Pod {key[0]}/{key[1]}"
        self._events.tell(
            PODS, pod, "TaintManagerEviction", told, component="taint-eviction-controller"
        )
        disrupt(pod, "DeletionByTaintManager", _EVICTING)
        self._store.save(PODS, pod)
        self._registry.delete(PODS, *key, Deletion(uid=uid))

    def _node_changed(self, change: Change) -> None:
        name = change.body["metadata"]["name"]
        if change.kind == DELETED:
            self._engine.after(PART, delays.NODE_ORPHANED, lambda: self._collect(name))

    def _collect(self, node: str) -> None:
        if self._store.get(NODES, "", node) is not None:
            return
        for pod in self._pods_of(node):
            disrupt(pod, "DeletionByPodGC", _GONE)
            pod["status"]["phase"] = "Failed"
            self._store.save(PODS, pod)
            with contextlib.suppress(Refused):
                self._registry.delete(
                    PODS, *key_of(pod), Deletion(grace=0, uid=pod["metadata"]["uid"])
                )

    def _pods_of(self, node: str) -> list[Body]:
        ended = ("Succeeded", "Failed")
        pods = self._store.bodies(PODS)
        return [
            pod
            for pod in pods
            if pod["spec"].get("nodeName") == node and pod["status"].get("phase") not in ended
        ]


def _ready(status: str, reason: str, message: str) -> dict[str, Any]:
    condition = {"type": "Ready", "status": status, "reason": reason, "message": message}
    return {**condition, "lastHeartbeatTime": stamp(), "lastTransitionTime": stamp()}


def _set_ready(node: Body, condition: Body) -> None:
    others = [item for item in node["status"]["conditions"] if item["type"] != "Ready"]
    node["status"]["conditions"] = [*others, condition]
