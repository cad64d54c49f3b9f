"""Faults of the API server, of its watches, and of the controllers."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.doubles.kubernetes import clock
from tests.doubles.kubernetes.api.fault_injection import (
    CUT_AFTER,
    CUT_BEFORE,
    HANG,
    RESPOND,
    FaultInjection,
    InjectedFault,
)
from tests.doubles.kubernetes.api.watches import OpenWatches
from tests.doubles.kubernetes.controllers.job_controller import JobController
from tests.doubles.kubernetes.engine import loop
from tests.doubles.kubernetes.http.front import Front
from tests.doubles.kubernetes.nodes.fleet import Fleet
from tests.doubles.kubernetes.objects.kinds import JOBS, PODS
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import Store

#: Parts of the engine that stand still while the API server is away.
_CONTROL_PLANE = (loop.JOBS, loop.SCHEDULER, loop.COLLECTOR, loop.NODE_CONTROLLER)


@dataclass(kw_only=True)
class ControlPlaneFaults:
    """Faults of requests, of the API server, of watches and of controllers."""

    store: Store
    registry: Registry
    engine: loop.Engine
    fleet: Fleet
    front: Front
    injection: FaultInjection
    watches: OpenWatches
    job_controller: JobController
    _stalled: set[str] = field(default_factory=set, init=False)

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
    ) -> InjectedFault:
        """Respond to the next requests that match with a status code.

        The arguments are those of
        :class:`tests.doubles.kubernetes.api.fault_injection.InjectedFault`.
        """
        data = None if body is None else body.encode()
        fault = InjectedFault(RESPOND, method, path, times, status, retry_after, data)
        return self.injection.add(fault)

    def hang(self, *, method: str = ".*", path: str = "", times: int | None = 1) -> InjectedFault:
        """Let the next requests that match hang until their clients give up.

        The server does not carry them out.
        """
        return self.injection.add(InjectedFault(HANG, method, path, times))

    def cut(
        self, *, after: bool, method: str = ".*", path: str = "", times: int | None = 1
    ) -> InjectedFault:
        """Reset the connection of the next requests that match.

        The reset comes before or ``after`` the server carries the request out.
        """
        action = CUT_AFTER if after else CUT_BEFORE
        return self.injection.add(InjectedFault(action, method, path, times))

    def latency(self, seconds: float) -> None:
        """Add latency to every request."""
        self.injection.latency = seconds

    def clear(self) -> None:
        """Remove the faults of requests and of new watches."""
        self.injection.clear()

    # -- the API server ----------------------------------------------------------------------------

    def front_down(self) -> None:
        """Close the port of the API server and cut every connection.

        Pods run on. Controllers and scheduler stand still until :meth:`front_up`.
        """
        self.front.down()
        with self.store.lock:
            for part in _CONTROL_PLANE:
                self.engine.stall(part)
            for kubelet in self.fleet.kubelets.values():
                kubelet.disconnect()

    def front_up(self) -> None:
        """Open the same port again. Kubelets report what has happened since."""
        with self.store.lock:
            for part in _CONTROL_PLANE:
                if part not in self._stalled:
                    self.engine.resume(part)
            for kubelet in self.fleet.kubelets.values():
                kubelet.reconnect()
        self.front.up()

    def shift_clock(self, seconds: float) -> None:
        """Put the clock of all machines of the cluster ahead by so many seconds; 0: as it was."""
        clock.shift(seconds)

    def policy(self, resource: str, why: str | None, name: str = "policy") -> None:
        """Let a ValidatingAdmissionPolicy deny all new ``jobs`` or ``pods``; None: it is gone."""
        with self.store.lock:
            kind = {"jobs": JOBS, "pods": PODS}[resource]
            if why is None:
                self.registry.policies.pop(kind, None)
            else:
                self.registry.policies[kind] = (name, why)

    # -- watches -----------------------------------------------------------------------------------

    def drop_watches(self, *, cut: bool = False) -> int:
        """End all watches in order, or ``cut`` their connections; returns their number."""
        watches = self.watches.all()
        for watch in watches:
            watch.end(cut=cut)
        return len(watches)

    def silence_watches(self, *, on: bool = True) -> int:
        """Send nothing more to open and new watches, not even their end; returns the number of
        open watches.

        With ``on=False`` new watches work again. Silent watches stay silent.
        """
        self.injection.silence(on)
        if not on:
            return 0
        watches = self.watches.all()
        for watch in watches:
            watch.silent.set()
        return len(watches)

    def expire_watches(self, times: int = 1) -> None:
        """Respond with 410 to the next watches."""
        self.injection.expire_next(times)

    def compact(self) -> None:
        """Forget the history: no watch or list can start from an older version."""
        self.store.compact()

    # -- controllers -------------------------------------------------------------------------------

    def late_pods(self, seconds: float) -> None:
        """Let the Job controller notice new Jobs after a delay."""
        self.job_controller.delay = seconds

    def stall(self, part: str) -> None:
        """Stop a part: ``jobs``, ``scheduler``, ``gc``, ``nodes`` or ``kubelet``."""
        self._stalled.add(part)
        self.engine.stall(part)

    def resume(self, part: str) -> None:
        """Let a stalled part continue with what it has missed."""
        self._stalled.discard(part)
        self.engine.resume(part)
