"""What can be made to go wrong in the cluster, from a test or over HTTP.

Pods are named by their name or uid. What takes seconds takes real ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tests.doubles.kubernetes.api.fault_injection import ANSWER, CUT_AFTER, CUT_BEFORE, HANG, Rule
from tests.doubles.kubernetes.engine import loop as parts
from tests.doubles.kubernetes.nodes.kubelet import Kubelet
from tests.doubles.kubernetes.nodes.worker import Worker
from tests.doubles.kubernetes.objects.deletion import Deletion, disrupt, evict
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.kinds import NODES, PODS
from tests.doubles.kubernetes.objects.store import Body, key_of

if TYPE_CHECKING:
    from tests.doubles.kubernetes.cluster import Cluster

#: Parts that stand still while the API server is away.
_CONTROL_PLANE = (parts.JOBS, parts.SCHEDULER, parts.COLLECTOR, parts.NODE_CONTROLLER)


class Faults:
    """The faults of one cluster: ``cluster.faults``."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stalled: set[str] = set()

    # -- requests ----------------------------------------------------------------------------------

    def fail(
        self,
        status: int,
        *,
        method: str = ".*",
        path: str = "",
        times: int | None = 1,
        retry_after: int | None = None,
        body: str | None = None,
    ) -> Rule:
        """Answer the next requests that match with a status, as
        :class:`tests.doubles.kubernetes.api.fault_injection.Rule` says.
        """
        data = None if body is None else body.encode()
        return self._cluster.trouble.add(
            Rule(ANSWER, method, path, times, status, retry_after, data)
        )

    def hang(self, *, method: str = ".*", path: str = "", times: int | None = 1) -> Rule:
        """Do not answer the next requests that match until their clients give up; they are not
        carried out.
        """
        return self._cluster.trouble.add(Rule(HANG, method, path, times))

    def cut(
        self, *, after: bool, method: str = ".*", path: str = "", times: int | None = 1
    ) -> Rule:
        """Reset the connection of the next requests that match, before or ``after`` they were
        carried out.
        """
        return self._cluster.trouble.add(
            Rule(CUT_AFTER if after else CUT_BEFORE, method, path, times)
        )

    def latency(self, seconds: float) -> None:
        """Let every request take longer."""
        self._cluster.trouble.latency = seconds

    def clear(self) -> None:
        """Take back what befalls requests and new watches."""
        self._cluster.trouble.clear()

    def front_down(self) -> None:
        """Close the API server's port and cut every connection. Pods run on; nothing is decided
        until it is back.
        """
        self._cluster.front.down()
        with self._cluster.store.lock:
            for part in _CONTROL_PLANE:
                self._cluster.engine.stall(part)
            for kubelet in self._cluster.kubelets.values():
                kubelet.disconnect()

    def front_up(self) -> None:
        """Open it again, on the same port: what has happened since is told."""
        with self._cluster.store.lock:
            for part in _CONTROL_PLANE:
                if part not in self._stalled:
                    self._cluster.engine.resume(part)
            for kubelet in self._cluster.kubelets.values():
                kubelet.reconnect()
        self._cluster.front.up()

    # -- watches -----------------------------------------------------------------------------------

    def drop_watches(self, *, cut: bool = False) -> int:
        """End all watches now, in order or with their connections ``cut``; how many."""
        return self._each_watch(lambda watch: watch.end(cut=cut))

    def silence_watches(self, *, on: bool = True) -> int:
        """Send nothing any more to watches that are there or start, not even bookmarks or their
        end; how many are there.

        With ``on=False`` new watches are sent what they should be; those that fell silent stay so.
        """
        self._cluster.trouble.silence(on)
        return self._each_watch(lambda watch: watch.silent.set()) if on else 0

    def expire_watches(self, times: int = 1) -> None:
        """Answer the next watches with 410."""
        self._cluster.trouble.expire_next(times)

    def compact(self) -> None:
        """Forget all history: watches and lists cannot go on from an older version."""
        self._cluster.store.compact()

    # -- controllers -------------------------------------------------------------------------------

    def late_pods(self, seconds: float) -> None:
        """Let the Job controller see new Jobs so much later."""
        self._cluster.jobs_controller.delay = seconds

    def stall(self, part: str) -> None:
        """Let a part do nothing: ``jobs``, ``scheduler``, ``gc``, ``nodes`` or ``kubelet``."""
        self._stalled.add(part)
        self._cluster.engine.stall(part)

    def resume(self, part: str) -> None:
        """Let it go on, with what it has missed."""
        self._stalled.discard(part)
        self._cluster.engine.resume(part)

    # -- nodes -------------------------------------------------------------------------------------

    def slow_pulls(self, seconds: float, node: str | None = None) -> None:
        """Let pulls take so much longer, on one node or on all."""
        with self._cluster.store.lock:
            for kubelet in self._kubelets(node):
                kubelet.slow_pulls = seconds

    def kubelet_down(self, node: str, *, evict_after: float | None = None) -> None:
        """Kill a kubelet. Containers run on; the node turns unreachable, and pods are evicted by
        their tolerations.

        Args:
            node: whose.
            evict_after: seconds from there to the eviction, whatever the tolerations say.
        """
        with self._cluster.store.lock:
            self._cluster.kubelets[node].die()
            self._cluster.node_controller.silent(node, evict_after=evict_after)

    def kubelet_up(self, node: str) -> None:
        """Start it again: it tells what has become of its containers and ends what was deleted. A
        deleted node joins anew.
        """
        with self._cluster.store.lock:
            kubelet = self._cluster.kubelets[node]
            if self._cluster.store.get(NODES, "", node) is None:
                self._cluster.store.add(NODES, kubelet.node.body(kubelet.address))
            self._cluster.node_controller.heard(node)
            kubelet.revive()

    def node_lost(self, node: str, evict_after: float = 0.0) -> None:
        """Lose a node: its kubelet is silent, its pods turn unready, then are evicted, while their
        processes run on.
        """
        self.kubelet_down(node, evict_after=evict_after)

    def node_back(self, node: str) -> None:
        """The same as :meth:`kubelet_up`."""
        self.kubelet_up(node)

    def node_deleted(self, node: str) -> None:
        """Take a node's object away: its pods are given up, whatever still runs there."""
        with self._cluster.store.lock:
            self._cluster.registry.delete(NODES, "", node, Deletion())

    def reject_pods(self, message: str | None, reason: str = "UnexpectedAdmissionError") -> None:
        """Let nodes reject new pods in these words; None: let them take them again."""
        with self._cluster.store.lock:
            self._cluster.rejection = None if message is None else (reason, message)

    # -- pods --------------------------------------------------------------------------------------

    def oom_kill(self, pod: str) -> None:
        """Kill a pod's containers as the kernel does at the memory limit."""
        with self._worker(pod) as worker:
            worker.kill(oom=True)

    def kill(self, pod: str) -> None:
        """Kill a pod's containers with SIGKILL, from outside."""
        with self._worker(pod) as worker:
            worker.kill()

    def evict(self, pod: str) -> None:
        """Evict a pod through the API, as a drain does."""
        body = self._pod(pod)
        evict(self._cluster.store, *key_of(body), Deletion(uid=body["metadata"]["uid"]))

    def evict_for_pressure(
        self, pod: str, message: str = "The node was low on resource: memory. "
    ) -> None:
        """Evict a pod as a kubelet does whose node is short of something: it is killed, and its
        object stays.
        """
        with self._worker(pod) as worker:
            disrupt(worker.pod, "TerminationByKubelet", message)
            self._cluster.store.save(PODS, worker.pod)
            worker.evict(message)

    def preempt(self, pod: str) -> None:
        """Delete a pod as the scheduler does for a more important one."""
        with self._cluster.store.lock:
            self._cluster.scheduler.preempt(
                self._pod(pod), "Preempted by a pod of a higher priority"
            )

    def delete_pod(self, pod: str, grace: int | None = None) -> None:
        """Delete a pod as somebody with kubectl does."""
        with self._cluster.store.lock:
            self._cluster.registry.delete(PODS, *key_of(self._pod(pod)), Deletion(grace=grace))

    def force_delete(self, pod: str) -> None:
        """Take a pod's object away at once, while its processes run on until the cluster is closed,
        or :meth:`kill`.
        """
        with self._cluster.store.lock:
            body = self._pod(pod)
            body["metadata"].pop("finalizers", None)
            for kubelet in self._cluster.kubelets.values():
                kubelet.deaf.add(body["metadata"]["uid"])
            self._cluster.registry.delete(PODS, *key_of(body), Deletion(grace=0))

    def _each_watch(self, call: Any) -> int:
        with self._cluster.api.lock:
            watches = list(self._cluster.api.watches)
        for watch in watches:
            call(watch)
        return len(watches)

    def _kubelets(self, node: str | None) -> list[Kubelet]:
        return [kubelet for name, kubelet in self._cluster.kubelets.items() if node in (None, name)]

    def _pod(self, pod: str) -> Body:
        with self._cluster.store.lock:
            for body in self._cluster.store.bodies(PODS):
                if pod in (body["metadata"]["name"], body["metadata"]["uid"]):
                    return body
        raise Refused(404, "NotFound", f'pods "{pod}" not found')

    @contextlib.contextmanager
    def _worker(self, pod: str) -> Iterator[Worker]:
        with self._cluster.store.lock:
            for kubelet in self._cluster.kubelets.values():
                for worker in kubelet.workers.values():
                    if pod in (worker.pod["metadata"]["name"], worker.uid):
                        yield worker
                        return
        raise Refused(404, "NotFound", f'no node runs a pod "{pod}"')
