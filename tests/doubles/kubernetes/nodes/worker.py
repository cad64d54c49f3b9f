"""The work of a kubelet on one pod, from its admission to the end of its containers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.doubles.kubernetes import clock
from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.engine.loop import Timer
from tests.doubles.kubernetes.nodes.container import Container
from tests.doubles.kubernetes.nodes.host import Host
from tests.doubles.kubernetes.nodes.pod_state import PodState
from tests.doubles.kubernetes.nodes.runtime import Exit, Handle, Runtime, StartError
from tests.doubles.kubernetes.nodes.starter import Starter
from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.wire import new_address

_DEADLINE = "Pod was active on the node longer than the specified deadline"
_GRACE = 30


class Worker:
    """One pod on one node.

    Args:
        pod: the stored object. Its spec does not change.
        host: the machine of the node.
        on_finished: called when all containers have ended in a pod that is terminating.
    """

    def __init__(self, pod: Body, host: Host, on_finished: Callable[[Worker], None]) -> None:
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.state = PodState.of(pod["spec"], host.folder / self.uid)
        self.ending = False
        self._host = host
        self._timers = host.timers
        self._reporter = host.reporter
        self._on_finished = on_finished
        self._address = new_address()
        self._removes = self._finishing = False
        self._killer: Timer | None = None
        self._starter = Starter(pod, self._address, host, self)

    @property
    def grace(self) -> float:
        """The grace period of the manifest in seconds."""
        return float(self.pod["spec"].get("terminationGracePeriodSeconds", _GRACE))

    @property
    def ended(self) -> bool:
        """Whether the kubelet has reported the terminal phase."""
        return bool(self.state.final_phase)

    def publish(self) -> None:
        """Write the status of the pod as the kubelet sees it."""
        generation = self.pod["metadata"].get("generation", 1)
        status = self.state.status(generation, self._host.address, self._address)
        self._reporter.publish(self.pod, status)

    def begin(self, rejection: tuple[str, str] | None) -> None:
        """Admit the pod, or reject it with a reason and a message."""
        if rejection is not None:
            self.state.final_phase, self.state.why = "Failed", rejection
            reason, message = rejection
            message = message.removeprefix("Pod was rejected: ")
            self._reporter.record(self.pod, reason, message, warning=True)
            self.publish()
            return
        self.state.admitted = True
        self.publish()
        self._timers.later(delays.SANDBOX, partial(self._starter.when_mounted, self._sandboxed))
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        if deadline is not None:
            self._timers.later_stated(deadline, self._past_deadline)

    def adopt(self, runtime: Runtime) -> None:
        """Take over a pod as if its containers ran already."""
        self.state.admitted = self.state.sandbox = True
        for container in self.state.containers:
            self._starter.adopt(container, runtime)
        self.publish()

    def end(self, grace: float, *, removes: bool) -> None:
        """End the pod: SIGTERM, ``grace`` seconds, SIGKILL.

        Args:
            grace: the seconds that the containers have.
            removes: the object is being deleted; remove it when the containers have ended.
        """
        self._removes = self._removes or removes
        if self.ending:
            self._shorten(grace)
            return
        self.ending = True
        for container in self.state.containers:
            if container.retry is not None:
                container.retry.cancel()
        if self.state.busy:
            # A container that is about to start is stopped once it has started.
            for container in self.state.containers:
                self._stop(container)
            self._killer = self._timers.later_stated(grace, self.kill)
        elif self.state.main_ended or self.ended:
            self._finish()
        else:
            self._end_unstarted()

    def evict(self, message: str) -> None:
        """End the pod because the node is short of a resource."""
        self.state.why = ("Evicted", message)
        self._reporter.record(self.pod, "Evicted", message, warning=True)
        self.end(0, removes=False)

    def kill(self, *, oom: bool = False, name: str = "") -> None:
        """Kill the containers, or the one of a name, from outside the kubelet."""
        for container in self.state.containers:
            if name in ("", container.name):
                container.kill(oom=oom)

    def may_start(self) -> bool:
        """Whether a container may still start. Reports the last failure first."""
        if self.ending:
            return False
        if any(container.failure is not None for container in self.state.containers):
            self.state.addressed = True
            self.publish()
        return True

    def started(self, container: Container, outcome: Handle | StartError | None) -> None:
        """Note the result of a start: a handle, an error, or None for a start that was dropped."""
        self.state.addressed = True
        if outcome is None:
            container.lose()
            if not self.state.busy:
                self._finish()
        elif isinstance(outcome, StartError):
            message = f"Error: {outcome}"
            self._reporter.record(self.pod, "Failed", message, container.name, warning=True)
            container.finished = clock.now()
            failure = Exit(128, str(outcome), "StartError")
            self._timers.later(delays.STARTED, partial(self._exit_noticed, container, failure))
        else:
            container.handle, container.started = outcome, clock.now()
            self._reporter.record(self.pod, "Started", "Container started", container.name)
            if self.ending:
                self._stop(container)
            else:
                self._timers.later(delays.STARTED, partial(self._start_noticed, container))
        if not container.initial:
            self._proceed_main()

    def failed(self, container: Container) -> None:
        """Go on with the next container."""
        if not container.initial:
            self._proceed_main()

    def exited(self, container: Container, how: Exit, at: float) -> None:
        """Note the end of a container."""
        container.finished = at
        delay = delays.EXITED_ENDING if self.ending else delays.EXITED
        self._timers.later(delay, partial(self._exit_noticed, container, how))

    def _sandboxed(self) -> None:
        if not self.ending:
            self.state.sandbox = True
            self.publish()
            self._proceed()

    def _proceed(self) -> None:
        """Start the next init container, or the main containers after the last one."""
        for container in self.state.initial:
            if not container.begun and container.failure is None:
                self._starter.attempt(container)
            if container.exit is None and not (container.sidecar and container.started is not None):
                return
        self._proceed_main()

    def _proceed_main(self) -> None:
        """Start the main containers one after the other, as a kubelet does."""
        for container in self.state.main:
            if self.ending:
                return
            if not container.begun and container.failure is None and not container.starting:
                self._starter.attempt(container)
            if container.starting:
                return

    def _start_noticed(self, container: Container) -> None:
        # A kubelet reports once it has been through all containers.
        if container.initial or not any(each.unborn for each in self.state.main):
            self.publish()
        if container.sidecar and not self.ending:
            self._proceed()

    def _exit_noticed(self, container: Container, how: Exit) -> None:
        container.ended(how)
        if self.ending:
            if not self.state.busy:
                self._finish()
            return
        self.publish()
        if self.state.over:
            for other in self.state.initial:
                self._stop(other)  # sidecars end after the main containers
            if not self.state.busy:
                self._timers.later(delays.TERMINAL, self._report_end)
        elif container.initial and not container.sidecar:
            self._proceed()

    def _report_end(self) -> None:
        if not self.ended and not self.ending:
            self.state.final_phase, self.state.sandbox = self.state.outcome, False
            self.publish()

    def _finish(self, until_removal: float = delays.REMOVED) -> None:
        """Report the end of a terminating pod, and remove its object if it is being deleted."""
        for container in self.state.containers:
            if container.exit is None:
                container.lose()
        if not self.ended:
            self.state.final_phase = "Failed" if self.state.why[0] else self.state.outcome
        self.state.sandbox = False
        if self._killer is not None:
            self._killer.cancel()
        self.publish()
        if self._removes and not self._finishing:
            self._finishing = True
            self._timers.later(until_removal, partial(self._reporter.remove, self.pod))
        self._on_finished(self)

    def _end_unstarted(self) -> None:
        """End a pod whose containers never ran."""
        for container in self.state.main:
            container.shown = ("ContainerCreating", "")
        self.publish()
        self._timers.later(delays.SANDBOX_GONE, self._sandbox_gone)
        self._timers.later(delays.NEVER_FOUND, partial(self._finish, delays.REACT))

    def _sandbox_gone(self) -> None:
        self.state.sandbox = False
        self.publish()

    def _stop(self, container: Container) -> None:
        if container.terminate():
            message = f"Stopping container {container.name}"
            self._reporter.record(self.pod, "Killing", message, container.name)

    def _shorten(self, grace: float) -> None:
        """End a terminating pod sooner, or remove its object as well."""
        killer = self._killer
        if killer is not None and killer.waits:
            sooner = self._timers.later_stated(grace, self.kill)
            if sooner.due < killer.due:
                killer.cancel()
                self._killer = sooner
            else:
                sooner.cancel()
        if self._removes and self.ended:
            self._finish()

    def _past_deadline(self) -> None:
        if self.ending or self.ended or self.state.over:
            return
        self.state.why = ("DeadlineExceeded", _DEADLINE)
        self._reporter.record(self.pod, "DeadlineExceeded", _DEADLINE)
        self.end(self.grace, removes=False)
