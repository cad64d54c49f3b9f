"""The kubelet of one node: takes the pods that are bound to it, and tells the API server what
becomes of them.

It can be *dead* (killed: containers run on, nobody sees them) or *cut off* (the API server is away:
it works on and tells later). Whatever it could not tell is told once it can, as it is by then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from tests.doubles.kubernetes.controllers.node_controller import Node
from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.engine.loop import KUBELET, Engine, Timer
from tests.doubles.kubernetes.nodes.images import Image
from tests.doubles.kubernetes.nodes.pod_state import dated
from tests.doubles.kubernetes.nodes.runtime import Runtime
from tests.doubles.kubernetes.nodes.worker import Worker
from tests.doubles.kubernetes.objects.deletion import Deletion
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.kinds import PODS
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import Body, key_of

log = logging.getLogger(__name__)

_ENDED = ("Succeeded", "Failed")
#: Conditions that a kubelet does not own.
_FOREIGN = ("PodScheduled", "DisruptionTarget")


class Surroundings(Protocol):
    """What all kubelets share."""

    engine: Engine
    registry: Registry
    events: EventLog
    folder: Path
    manifest_pace: float

    @property
    def images(self) -> Mapping[str, Image]:
        """The images by name."""

    def runtime_for(self, pod: Body) -> Runtime:
        """What runs a pod's containers."""

    def refusal(self, node: str, pod: Body) -> tuple[str, str] | None:
        """Reason and message with which a node rejects a pod, None if it takes it."""


class Kubelet:
    """A node's agent. Everything runs in the engine's thread, under the store's lock."""

    def __init__(self, node: Node, address: str, around: Surroundings) -> None:
        self.name = node.name
        self.node = node
        self.address = address
        self.engine = around.engine
        self.registry = around.registry
        self.store = around.registry.store
        self.images = around.images
        self.folder = around.folder
        self.clock = around.manifest_pace
        self.slow_pulls = 0.0
        self.pulled: set[str] = set()
        self.workers: dict[str, Worker] = {}
        self.dead = False
        self.cut_off = False
        self.deaf: set[str] = set()
        """Uids of pods whose deletion it does not hear of."""
        self._around = around
        self._untold: dict[str, Worker] = {}
        self._starting = False
        self._events: list[Callable[[], None]] = []
        self._missed: list[Callable[[], None]] = []

    @property
    def connected(self) -> bool:
        """Whether it can tell the API server anything."""
        return not (self.dead or self.cut_off or self._starting)

    def changed(self, namespace: str, name: str, uid: str) -> None:
        """A pod of this node has changed, or has gone."""
        if self.connected:
            self.engine.after(KUBELET, delays.REACT, lambda: self._sync(namespace, name, uid))

    def die(self) -> None:
        """Be killed: containers run on."""
        self.dead = True

    def revive(self) -> None:
        """Be started again: see what has become of the containers, then what is asked for."""
        self.dead, self._starting = False, True
        missed, self._missed = self._missed, []
        for call in missed:
            call()
        self.later(delays.RESTART, self._started)

    def _started(self) -> None:
        self._starting = False
        self._catch_up()

    def disconnect(self) -> None:
        """The API server is away."""
        self.cut_off = True

    def reconnect(self) -> None:
        """The API server is back: tell what was not told, and look at every pod again."""
        self.cut_off = False
        self._catch_up()

    def _catch_up(self) -> None:
        if not self.connected:
            return
        for worker in list(self.workers.values()):
            self.publish(worker)
        self._untold.clear()
        events, self._events = self._events, []
        for tell in events:
            tell()
        for worker in list(self.workers.values()):
            self.changed(*key_of(worker.pod), worker.uid)
        for pod in list(self.store.bodies(PODS)):
            if pod["spec"].get("nodeName") == self.name:
                self.changed(*key_of(pod), pod["metadata"]["uid"])

    def publish(self, worker: Worker) -> None:
        """Write a pod's status, once the API server can be reached."""
        if not self.connected:
            self._untold[worker.uid] = worker
            return
        pod = self.store.get(PODS, *key_of(worker.pod))
        if pod is None or pod["metadata"]["uid"] != worker.uid:
            return
        old, new = pod["status"], worker.status()
        # What is over stays over: another may have ended it already.
        if old.get("phase") in _ENDED and new["phase"] not in _ENDED:
            return
        foreign = [item for item in old.get("conditions", []) if item["type"] in _FOREIGN]
        own = dated(new.pop("conditions", []), old.get("conditions", []))
        for item in foreign:
            if item["type"] == "PodScheduled":
                item["observedGeneration"] = new["observedGeneration"]
        pod["status"] = {
            **{key: old[key] for key in ("qosClass",) if key in old},
            **new,
            "conditions": [*own, *foreign],
        }
        self.store.save(PODS, pod)

    def tell(self, pod: Body, reason: str, message: str, container: str, *, warning: bool) -> None:
        """Write an event, once the API server can be reached."""

        def tell() -> None:
            self._around.events.pod(
                pod, reason, message, host=self.name, container=container, warning=warning
            )

        if self.connected:
            tell()
        else:
            self._events.append(tell)

    def finished(self, worker: Worker) -> None:
        """A pod's containers have ended: forget it if its object is gone already."""
        pod = self.store.get(PODS, *key_of(worker.pod))
        if pod is None or pod["metadata"]["uid"] != worker.uid:
            self.workers.pop(worker.uid, None)

    def remove(self, worker: Worker) -> None:
        """Take a deleted pod's object away: its containers have ended."""
        if not self.connected:
            self._missed.append(lambda: self.remove(worker))
            return
        try:
            self.registry.delete(PODS, *key_of(worker.pod), Deletion(grace=0, uid=worker.uid))
        except Refused:  # it has gone already, perhaps with another in its place
            log.debug("the pod %s had gone already", worker.uid)

    def soon(self, call: Callable[[], None]) -> None:
        """Do something in the engine's thread, once this kubelet is alive."""
        self.later(0, call)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Do something after a scaled delay, or when it is alive again."""
        return self.later_exactly(seconds * self.engine.pace, call)

    def later_exactly(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Do something after a delay that is not scaled, or when it is alive again."""

        def run() -> None:
            if self.dead:
                self._missed.append(call)
            else:
                call()

        return self.engine.after_exactly(KUBELET, seconds, run)

    def runtime_for(self, pod: Body) -> Runtime:
        """What runs a pod's containers."""
        return self._around.runtime_for(pod)

    def refusal(self, pod: Body) -> tuple[str, str] | None:
        """Why this node does not take a pod."""
        return self._around.refusal(self.name, pod)

    def running(self) -> Iterator[Worker]:
        """The pods whose containers have not all ended."""
        return (worker for worker in self.workers.values() if not worker.ended)

    def _sync(self, namespace: str, name: str, uid: str) -> None:
        if not self.connected:
            return
        pod = self.store.get(PODS, namespace, name)
        if pod is not None and pod["metadata"]["uid"] != uid:
            pod = None
        worker = self.workers.get(uid)
        if pod is None:
            if worker is not None and uid not in self.deaf:
                worker.end(worker.grace, removes=False)  # its object is gone: nobody is told
                if worker.ended:
                    self.workers.pop(uid, None)  # vanishing may have taken it out already
            return
        if worker is None:
            if pod["status"].get("phase") in _ENDED:
                return
            worker = self.workers[uid] = Worker(self, pod)
            if "deletionTimestamp" not in pod["metadata"]:
                worker.begin()
        if "deletionTimestamp" in pod["metadata"] and uid not in self.deaf:
            worker.end(pod["metadata"].get("deletionGracePeriodSeconds", 0), removes=True)
