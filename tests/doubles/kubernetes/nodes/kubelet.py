"""The kubelet of one node: it runs the pods bound to the node and reports their status.

A kubelet can be *dead* (it was killed, and its containers run on) or *disconnected* (the API server
is unreachable, and the kubelet works on). Afterwards it reports the state as it is by then.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.nodes.host import Host
from tests.doubles.kubernetes.nodes.runtime import Runtime
from tests.doubles.kubernetes.nodes.worker import Worker
from tests.doubles.kubernetes.objects.bodies import Body, has_ended, is_terminating, key_of
from tests.doubles.kubernetes.objects.kinds import NODES, PODS
from tests.doubles.kubernetes.objects.node import Node

#: Reason and message of a pod that a node rejects.
Rejection = tuple[str, str]


class Kubelet:
    """The agent of a node. Runs in the engine's thread, under the store's lock.

    Args:
        node: the node.
        host: its machine.
        reject: returns why the node rejects a pod, None if it admits the pod.
    """

    def __init__(self, node: Node, host: Host, reject: Callable[[Body], Rejection | None]) -> None:
        self.host = host
        self.workers: dict[str, Worker] = {}
        self.ignored: set[str] = set()
        """Uids of pods whose deletion the kubelet does not notice."""
        self._node = node
        self._reject = reject
        self._dead = self._disconnected = self._starting = False

    def register(self) -> None:
        """Create the Node object if there is none."""
        if self.host.store.get(NODES, "", self.host.name) is None:
            self.host.store.add(NODES, self._node.body(self.host.address))

    def pod_changed(self, namespace: str, name: str, uid: str) -> None:
        """React to a change or the removal of a pod of this node."""
        if self.host.reporter.online:
            self.host.timers.later(delays.REACT, lambda: self._sync(namespace, name, uid))

    def adopt(self, pod: Body, runtime: Runtime) -> None:
        """Take over a pod as if its containers ran already."""
        worker = self.workers[pod["metadata"]["uid"]] = self._worker(pod)
        worker.adopt(runtime)

    def die(self) -> None:
        """Stop as if killed. Containers run on."""
        self._dead = True
        self.host.timers.stop()
        self._set_online()

    def revive(self) -> None:
        """Start again: notice what became of the containers, then catch up with the API server."""
        self._dead, self._starting = False, True
        self._set_online()
        self.host.timers.resume()
        self.host.timers.later(delays.RESTART, self._started)

    def disconnect(self) -> None:
        """Lose the connection to the API server."""
        self._disconnected = True
        self._set_online()

    def reconnect(self) -> None:
        """Reach the API server again and catch up."""
        self._disconnected = False
        self._catch_up()

    def _started(self) -> None:
        self._starting = False
        self._catch_up()

    def _set_online(self) -> None:
        self.host.reporter.online = not (self._dead or self._disconnected or self._starting)

    def _catch_up(self) -> None:
        """Report what has happened meanwhile, and sync every pod."""
        self._set_online()
        if not self.host.reporter.online:
            return
        for worker in list(self.workers.values()):
            worker.publish()
        self.host.reporter.flush()
        for worker in list(self.workers.values()):
            self.pod_changed(*key_of(worker.pod), worker.uid)
        for pod in list(self.host.store.bodies(PODS)):
            if pod["spec"].get("nodeName") == self.host.name:
                self.pod_changed(*key_of(pod), pod["metadata"]["uid"])

    def _sync(self, namespace: str, name: str, uid: str) -> None:
        if not self.host.reporter.online:
            return
        pod = self.host.store.get(PODS, namespace, name)
        if pod is not None and pod["metadata"]["uid"] != uid:
            pod = None
        worker = self.workers.get(uid)
        if pod is None:
            if worker is not None and uid not in self.ignored:
                worker.end(worker.grace, removes=False)  # the object is gone: nothing to report
                if worker.ended:
                    self.workers.pop(uid, None)
            return
        if worker is None:
            if has_ended(pod):
                return
            worker = self.workers[uid] = self._worker(pod)
            if not is_terminating(pod):
                worker.begin(self._reject(pod))
        if is_terminating(pod) and uid not in self.ignored:
            worker.end(pod["metadata"].get("deletionGracePeriodSeconds", 0), removes=True)

    def _worker(self, pod: Body) -> Worker:
        return Worker(pod, self.host, self._forget)

    def _forget(self, worker: Worker) -> None:
        """Forget a worker whose containers have ended, if the object of its pod is gone."""
        if self.host.reporter.current(worker.pod) is None:
            self.workers.pop(worker.uid, None)
