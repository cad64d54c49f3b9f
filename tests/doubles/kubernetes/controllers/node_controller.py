"""The controllers of nodes: they taint silent nodes, evict the pods there, and delete the pods of
deleted nodes.
"""

from __future__ import annotations

import contextlib
from functools import partial

from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.engine.loop import NODE_CONTROLLER as PART
from tests.doubles.kubernetes.engine.loop import Engine, Timer
from tests.doubles.kubernetes.objects.bodies import (
    Body,
    condition_of,
    has_ended,
    is_terminating,
    key_of,
    put_condition,
)
from tests.doubles.kubernetes.objects.deletion import Deletion, disrupt
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.fit import tolerates
from tests.doubles.kubernetes.objects.kinds import NODES, PODS
from tests.doubles.kubernetes.objects.node import READY, SILENT
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import DELETED, Change
from tests.doubles.kubernetes.objects.wire import stamp

_UNREACHABLE = "node.kubernetes.io/unreachable"
_EVICTING = "Taint manager: deleting due to NoExecute taint"
_GONE = "PodGC: node no longer exists"


class NodeController:
    """Reacts to silent and deleted nodes. Runs in the engine's thread."""

    def __init__(self, registry: Registry, events: EventLog, engine: Engine) -> None:
        self._registry = registry
        self._store = registry.store
        self._events = events
        self._engine = engine
        self._silent: dict[str, Timer] = {}
        self._evictions: dict[str, list[Timer]] = {}
        self._store.subscribe(NODES, self._node_changed)

    def kubelet_silent(self, node: str, *, evict_after: float | None) -> None:
        """Note that a kubelet has stopped reporting.

        Args:
            node: the node of the kubelet.
            evict_after: real seconds from the taint to the eviction of the pods. None: the scaled
                seconds of their tolerations.
        """
        self._silent[node] = self._engine.after(
            PART, delays.NODE_SILENT, partial(self._unreachable, node, evict_after)
        )

    def kubelet_reports(self, node: str) -> None:
        """Note that a kubelet reports again."""
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
        put_condition(body, READY.condition())
        self._store.save(NODES, body)

    def _unreachable(self, node: str, evict_after: float | None) -> None:
        body = self._store.get(NODES, "", node)
        if body is None:
            return
        put_condition(body, SILENT.condition())
        taints = [
            {"key": _UNREACHABLE, "effect": effect, "timeAdded": stamp()}
            for effect in ("NoSchedule", "NoExecute")
        ]
        body["spec"]["taints"] = [*body["spec"].get("taints", []), *taints]
        self._store.save(NODES, body)
        for pod in self._pods_of(node):
            ready = condition_of(pod, "Ready")
            if ready is not None and ready["status"] == "True":
                ready |= {"status": "False", "lastTransitionTime": stamp()}
            self._events.record(
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
            return  # the pod tolerates the taint for any time
        bounded = [value for value in seconds if value is not None]
        call = partial(self._evict, key_of(pod), pod["metadata"]["uid"])
        if evict_after is None:
            timer = self._engine.after(PART, min(bounded, default=0), call)
        else:
            timer = self._engine.after_exactly(PART, evict_after, call)
        self._evictions.setdefault(node, []).append(timer)

    def _evict(self, key: tuple[str, str], uid: str) -> None:
        pod = self._store.get(PODS, *key)
        if pod is None or pod["metadata"]["uid"] != uid or is_terminating(pod):
            return
        message = f"Marking for deletion Pod {'/'.join(key)}"
        self._events.record(
            PODS, pod, "TaintManagerEviction", message, component="taint-eviction-controller"
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
        pods = self._store.bodies(PODS)
        return [pod for pod in pods if pod["spec"].get("nodeName") == node and not has_ended(pod)]
