"""A kubelet's work on one pod: from its admission to the end of its containers."""

from __future__ import annotations

import signal
import time
from functools import partial
from typing import TYPE_CHECKING

from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.engine.loop import Timer
from tests.doubles.kubernetes.nodes.container import Container
from tests.doubles.kubernetes.nodes.pod_state import PodState
from tests.doubles.kubernetes.nodes.runtime import Exit, Handle, Runtime, StartError
from tests.doubles.kubernetes.nodes.starter import Starter
from tests.doubles.kubernetes.objects.store import Body
from tests.doubles.kubernetes.objects.wire import new_address

if TYPE_CHECKING:
    from tests.doubles.kubernetes.nodes.kubelet import Kubelet

_DEADLINE = "Pod was active on the node longer than the specified deadline"
_GRACE = 30


class Worker:
    """One pod on one node. ``pod`` is the stored object, whose spec does not change."""

    def __init__(self, kubelet: Kubelet, pod: Body) -> None:
        self.kubelet = kubelet
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.address = new_address()
        folder, spec = kubelet.folder / self.uid, pod["spec"]
        self.state = PodState(
            [
                Container(item, folder / item["name"], True)
                for item in spec.get("initContainers") or ()
            ],
            [Container(item, folder / item["name"], False) for item in spec["containers"]],
        )
        if self.state.initial:
            for container in self.state.main:
                container.shown = ("PodInitializing", "")
        self.ending = False
        self._removes = self._finishing = False
        self._killer: Timer | None = None
        self._starter = Starter(
            kubelet, pod, self.address, self._goes_on, self._spawned, self._exited
        )

    @property
    def grace(self) -> float:
        """Seconds that its containers may take to end, by the manifest."""
        return float(self.pod["spec"].get("terminationGracePeriodSeconds", _GRACE))

    @property
    def ended(self) -> bool:
        """Whether its terminal phase is told."""
        return bool(self.state.ended)

    def status(self) -> Body:
        """The status as this kubelet sees it, without the conditions that others set."""
        return self.state.status(
            self.pod["metadata"].get("generation", 1), self.kubelet.address, self.address
        )

    def pids(self) -> list[int]:
        """Its processes."""
        return [
            pid
            for item in self.state.containers
            if item.handle is not None
            for pid in item.handle.pids()
        ]

    def begin(self) -> None:
        """Admit the pod, or reject it."""
        refusal = self.kubelet.refusal(self.pod)
        if refusal is not None:
            self.state.ended, self.state.why = "Failed", refusal
            self.kubelet.publish(self)
            return
        self.state.admitted = True
        self.kubelet.publish(self)
        self.kubelet.later(delays.SANDBOX, partial(self._starter.when_mounted, self._sandboxed))
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        if deadline is not None:
            self.kubelet.later_exactly(deadline * self.kubelet.clock, self._too_long)

    def adopt(self, runtime: Runtime) -> None:
        """Take a pod as one that runs already."""
        self.state.admitted = self.state.sandbox = True
        for container in self.state.containers:
            self._starter.adopt(container, runtime)
        self.kubelet.publish(self)

    def end(self, grace: float, *, removes: bool) -> None:
        """End the pod: SIGTERM, ``grace`` seconds, SIGKILL.

        Args:
            grace: how long the containers may take.
            removes: its object is deleted, and is taken away when they have ended.
        """
        self._removes = self._removes or removes
        if self.ending:
            self._hurry(grace)
            return
        self.ending = True
        containers = self.state.containers
        for container in containers:
            if container.retry is not None:
                container.retry.cancel()
        if any(container.begun and container.exit is None for container in containers):
            # One that is on its way is stopped when it is there.
            for container in containers:
                self._stop(container)
            self._kill_in(grace)
        elif all(container.exit is not None for container in self.state.main) or self.ended:
            self._finish()
        else:
            self._give_up()

    def evict(self, message: str) -> None:
        """End the pod because the node is short of something."""
        self.state.why = ("Evicted", message)
        self.kubelet.tell(self.pod, "Evicted", message, "", warning=True)
        self.end(0, removes=False)

    def kill(self, *, oom: bool = False) -> None:
        """Kill its containers from outside the kubelet."""
        for container in self.state.containers:
            if container.handle is not None and container.exit is None:
                container.handle.oom = container.handle.oom or oom
                container.handle.signal(signal.SIGKILL)

    def _sandboxed(self) -> None:
        if not self.ending:
            self.state.sandbox = True
            self.kubelet.publish(self)
            self._proceed()

    def _proceed(self) -> None:
        """Start what can be started now: the initial containers one after another, then the others
        at once.
        """
        for container in self.state.initial:
            if not container.begun and container.failure is None:
                self._starter.attempt(container)
            if container.exit is None and not (container.sidecar and container.started is not None):
                return
        for container in self.state.main:
            if not container.begun and container.failure is None:
                self._starter.attempt(container)

    def _goes_on(self) -> bool:
        """Before another try: tell how it went last time."""
        if self.ending:
            return False
        if any(container.failure is not None for container in self.state.containers):
            self.state.addressed = True
            self.kubelet.publish(self)
        return True

    def _spawned(self, container: Container, outcome: Handle | StartError | None) -> None:
        self.state.addressed = True
        if outcome is None:
            container.lose()
            if not self._awaited():
                self._finish()
        elif isinstance(outcome, StartError):
            self.kubelet.tell(self.pod, "Failed", f"Error: {outcome}", container.name, warning=True)
            container.finished = time.time()
            self.kubelet.later(
                delays.STARTED,
                partial(self._noticed, container, Exit(128, str(outcome), "StartError")),
            )
        else:
            container.handle, container.started = outcome, time.time()
            self.kubelet.tell(
                self.pod, "Started", "Container started", container.name, warning=False
            )
            if self.ending:
                self._stop(container)
            else:
                self.kubelet.later(delays.STARTED, partial(self._told_start, container))

    def _told_start(self, container: Container) -> None:
        self.kubelet.publish(self)
        if container.sidecar and not self.ending:
            self._proceed()

    def _exited(self, container: Container, how: Exit, at: float) -> None:
        container.finished = at
        self.kubelet.later(
            delays.EXITED_ENDING if self.ending else delays.EXITED,
            partial(self._noticed, container, how),
        )

    def _noticed(self, container: Container, how: Exit) -> None:
        container.ended(how)
        if self.ending:
            if not self._awaited():
                self._finish()
            return
        self.kubelet.publish(self)
        if self.state.over:
            for other in self.state.initial:
                self._stop(other)  # sidecars go when the others have gone
            if not self._awaited():
                self.kubelet.later(delays.TERMINAL, self._told_over)
        elif container.initial and not container.sidecar:
            self._proceed()

    def _told_over(self) -> None:
        if not self.ended and not self.ending:
            self.state.ended, self.state.sandbox = self.state.outcome, False
            self.kubelet.publish(self)

    def _awaited(self) -> bool:
        """Whether a container still runs, or is on its way."""
        return any(
            container.begun and container.exit is None for container in self.state.containers
        )

    def _finish(self, removed: float = delays.REMOVED) -> None:
        """All containers have ended in a pod that is being ended: tell it, and take the object away
        if it is deleted.
        """
        for container in self.state.containers:
            if container.exit is None:
                container.lose()
        if not self.ended:
            self.state.ended = "Failed" if self.state.why[0] else self.state.outcome
        self.state.sandbox = False
        if self._killer is not None:
            self._killer.cancel()
        self.kubelet.publish(self)
        if self._removes and not self._finishing:
            self._finishing = True
            self.kubelet.later(removed, partial(self.kubelet.remove, self))
        self.kubelet.finished(self)

    def _give_up(self) -> None:
        """End a pod whose containers never ran."""
        for container in self.state.main:
            container.shown = ("ContainerCreating", "")
        self.kubelet.publish(self)

        def sandbox_gone() -> None:
            self.state.sandbox = False
            self.kubelet.publish(self)

        self.kubelet.later(delays.SANDBOX_GONE, sandbox_gone)
        self.kubelet.later(delays.NEVER_FOUND, partial(self._finish, delays.REACT))

    def _stop(self, container: Container) -> None:
        if container.runs and container.handle is not None and not container.stopped:
            container.stopped = True
            self.kubelet.tell(
                self.pod,
                "Killing",
                f"Stopping container {container.name}",
                container.name,
                warning=False,
            )
            container.handle.signal(signal.SIGTERM)

    def _kill_in(self, grace: float) -> None:
        self._killer = self.kubelet.later_exactly(grace * self.kubelet.clock, self.kill)

    def _hurry(self, grace: float) -> None:
        """It is being ended already: perhaps sooner now, or so that its object goes as well."""
        killer = self._killer
        if (
            killer is not None
            and killer.waits
            and grace * self.kubelet.clock < killer.due - time.monotonic()
        ):
            killer.cancel()
            self._kill_in(grace)
        if self._removes and self.ended:
            self._finish()

    def _too_long(self) -> None:
        if self.ending or self.ended or self.state.over:
            return
        self.state.why = ("DeadlineExceeded", _DEADLINE)
        self.kubelet.tell(self.pod, "DeadlineExceeded", _DEADLINE, "", warning=False)
        self.end(self.grace, removes=False)
