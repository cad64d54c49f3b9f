"""A kubelet's work on one pod: from its admission to the end of its containers, and the status that tells of it.

The delays are those of the recordings, in seconds at pace 1.
"""

from __future__ import annotations

import secrets
import signal
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpuqueue.testing.cluster.containers import Container
from gpuqueue.testing.cluster.engine import KUBELET, Timer
from gpuqueue.testing.cluster.environment import ConfigError, Environment, expand
from gpuqueue.testing.cluster.images import Image, name_error, pull_error
from gpuqueue.testing.cluster.runtime import Exit, Handle, StartError, Task
from gpuqueue.testing.cluster.store import Body
from gpuqueue.testing.cluster.wire import stamp

if TYPE_CHECKING:
    from gpuqueue.testing.cluster.kubelet import Kubelet

#: From the first status to the pod's sandbox; from a container's creation to its start, and to the status that says so.
SANDBOX, START, TOLD = 0.43, 0.06, 0.02
#: From a container's end to the status that says so, and from there to the pod's terminal phase.
NOTICE, PHASE = 0.4, 1.1
#: The same once the pod is being ended: both are told at once, and the object goes a little later.
NOTICE_ENDING, REMOVAL = 0.1, 0.8
#: A container that could not be made is tried again at once, then every so often; a pull waits longer.
AGAIN, RESYNC, PULL_AGAIN, PULL_RESYNC = 0.2, 12.5, 1.0, 14.9
PULL_BACK_OFF, PULL_BACK_OFF_LIMIT = 10.0, 300.0
#: A pod whose containers never ran: its sandbox goes, then it is told that they cannot be found.
SANDBOX_GONE, LOST = 0.18, 0.95

_DEADLINE = "Pod was active on the node longer than the specified deadline"


class Worker:
    """One pod on one node. ``pod`` is the stored object, whose spec does not change."""

    def __init__(self, kubelet: Kubelet, pod: Body) -> None:
        self.kubelet = kubelet
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.ip = f"10.88.{secrets.randbelow(256)}.{2 + secrets.randbelow(250)}"
        self.folder: Path = kubelet.folder / self.uid
        self.ended = ""
        """The terminal phase, once it is told."""
        self.why = ("", "")
        """Reason and message of the pod's end, where the kubelet has its own."""
        self.ending = False
        self._removes = False
        self._finishing = False
        self._sandbox = False
        self._addressed = False
        self._admitted = False
        self._started = stamp()
        self._killer: Timer | None = None
        spec = pod["spec"]
        self._initial = [Container(item, self.folder / item["name"], True) for item in spec.get("initContainers") or ()]
        self._main = [Container(item, self.folder / item["name"], False) for item in spec["containers"]]
        if self._initial:
            for container in self._main:
                container.shown = ("PodInitializing", "")

    @property
    def containers(self) -> list[Container]:
        """All containers, the initial ones first."""
        return [*self._initial, *self._main]

    def begin(self) -> None:
        """Admit the pod, or reject it."""
        refusal = self.kubelet.refusal(self.pod)
        if refusal is not None:
            self.ended, self.why = "Failed", refusal
            self.kubelet.publish(self)
            return
        self._admitted = True
        self.kubelet.publish(self)
        self._after(SANDBOX, self._sandboxed)
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        if deadline is not None:
            self.kubelet.later_exactly(deadline * self.kubelet.clock, self._too_long)

    def end(self, grace: float, *, removes: bool) -> None:
        """End the pod: SIGTERM, ``grace`` real seconds, SIGKILL.

        Args:
            grace: how long the containers may take.
            removes: its object is deleted, and is taken away when they have ended.
        """
        self._removes = self._removes or removes
        if self.ending:
            if (
                self._killer is not None
                and self._killer.waits
                and grace * self.kubelet.clock < self._killer.due - time.monotonic()
            ):
                self._killer.cancel()
                self._kill_in(grace)
            if self._all_over() and removes:
                self._finish()
            return
        self.ending = True
        for container in self.containers:
            if container.retry is not None:
                container.retry.cancel()
        if any(container.runs for container in self.containers):
            for container in self.containers:
                if container.runs:
                    self._stop(container)
            self._kill_in(grace)
        elif any(container.begun and container.exit is None for container in self.containers):
            self._kill_in(grace)  # a process is on its way: it is stopped when it is there
        elif all(container.exit is not None for container in self._main):
            self._finish()
        else:
            self._give_up()

    def vanish(self) -> None:
        """The object is gone: end what runs, and tell nobody."""
        self.end(self.pod["spec"].get("terminationGracePeriodSeconds", 30), removes=False)

    def evict(self, message: str) -> None:
        """End the pod because the node is short of something."""
        self.why = ("Evicted", message)
        self._tell("Evicted", message, None, warning=True)
        self.end(0, removes=False)

    def kill(self, *, oom: bool = False) -> None:
        """Kill its containers from outside the kubelet."""
        for container in self._main:
            if container.handle is not None and container.exit is None:
                if oom:
                    container.handle.oom = True
                container.handle.signal(signal.SIGKILL)

    def status(self) -> Body:
        """The status as this kubelet sees it, without the conditions that others set."""
        phase = self.ended or ("Running" if any(item.started is not None for item in self._main) else "Pending")
        status: Body = {"phase": phase, "hostIP": self.kubelet.address, "hostIPs": [{"ip": self.kubelet.address}]}
        status |= {"startTime": self._started, "observedGeneration": self.pod["metadata"].get("generation", 1)}
        reason, message = self.why
        if self.ended and reason:
            status |= {"reason": reason, "message": message}
        if not self._admitted:
            del status["hostIP"], status["hostIPs"]
            return status
        if self._initial:
            status["initContainerStatuses"] = [container.status() for container in self._initial]
        status["containerStatuses"] = [container.status() for container in self._main]
        if self._addressed:
            status |= {"podIP": self.ip, "podIPs": [{"ip": self.ip}]}
        status["conditions"] = self._conditions()
        return status

    def pids(self) -> list[int]:
        """Its processes."""
        handles = [container.handle for container in self.containers if container.handle is not None]
        return [pid for handle in handles for pid in handle.pids()]

    def _conditions(self) -> list[Body]:
        over = self._all_over() and not any(container.lost for container in self._main)
        complete = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(self._outcome() if over else "")
        initialized: Body = {"type": "Initialized", "status": "True"}
        waiting = [container.name for container in self._initial if not container.ready]
        if waiting:
            told = f"containers with incomplete status: {_list(waiting)}"
            initialized |= {"status": "False", "reason": "ContainersNotInitialized", "message": told}
        elif complete == "PodCompleted":
            initialized["reason"] = complete
        unready = [container.name for container in self._main if not container.ready]
        ready: Body = {"status": "False" if unready else "True"}
        if complete is not None:
            ready["reason"] = complete
        elif unready:
            ready |= {"reason": "ContainersNotReady", "message": f"containers with unready status: {_list(unready)}"}
        return [
            {"type": "PodReadyToStartContainers", "status": "True" if self._sandbox else "False"},
            initialized,
            {"type": "Ready", **ready},
            {"type": "ContainersReady", **ready},
        ]

    def _sandboxed(self) -> None:
        if self.ending:
            return
        self._sandbox = True
        self.kubelet.publish(self)
        self._proceed()

    def _proceed(self) -> None:
        """Start what can be started now."""
        for container in self._initial:
            if container.exit is None:
                if not container.begun and container.failure is None:
                    self._attempt(container)
                return
        for container in self._main:
            if not container.begun and container.failure is None:
                container.shown = container.shown if not self._initial else ("PodInitializing", "")
                self._attempt(container)

    def _attempt(self, container: Container) -> None:
        image, policy = container.spec["image"], container.spec.get("imagePullPolicy", "IfNotPresent")
        container.attempts += 1
        known = self.kubelet.images.get(image)
        if wrong := name_error(image):
            self._tell("InspectFailed", wrong, container, warning=True)
            return self._fail(container, "InvalidImageName", wrong)
        present = known is not None and (known.pull_seconds == 0 or image in self.kubelet.pulled)
        if policy == "Never" and not present:
            told = f'Container image "{image}" is not present with pull policy of Never'
            self._tell("ErrImageNeverPull", told, container, warning=True)
            return self._fail(container, "ErrImageNeverPull", told)
        if present and policy != "Always":
            told = f'Container image "{image}" already present on machine and can be accessed by the pod'
            self._tell("Pulled", told, container)
            return self._create(container)
        return self._pull(container, image, known)

    def _pull(self, container: Container, image: str, known: Image | None) -> None:
        now = time.monotonic()
        if now < container.pull_after:
            told = f'Back-off pulling image "{image}"'
            self._tell("BackOff", told, container)
            return self._fail(
                container, "ImagePullBackOff", f"{told}: ErrImagePull: {pull_error(image)}", text="ImagePullBackOff"
            )
        self._tell("Pulling", f'Pulling image "{image}"', container)
        if known is None:
            wait = min(PULL_BACK_OFF * 2**container.pulls, PULL_BACK_OFF_LIMIT)
            container.pulls += 1
            container.pull_after = now + wait * self.kubelet.engine.pace
            self._tell("Failed", f'Failed to pull image "{image}": {pull_error(image)}', container, warning=True)
            return self._fail(container, "ErrImagePull", pull_error(image), text="ErrImagePull")
        takes = known.pull_seconds + self.kubelet.slow_pulls
        container.retry = self.kubelet.later_exactly(takes, partial(self._pulled, container, image, now))
        return None

    def _pulled(self, container: Container, image: str, since: float) -> None:
        took = time.monotonic() - since
        self.kubelet.pulled.add(image)
        told = f'Successfully pulled image "{image}" in {took:.3f}s ({took:.3f}s including waiting). Image size: 104857600 bytes.'
        self._tell("Pulled", told, container)
        self._create(container)

    def _create(self, container: Container) -> None:
        spec = container.spec
        where = {"status.podIP": self.ip, "status.hostIP": self.kubelet.address, "spec.nodeName": self.kubelet.name}
        try:
            env = Environment(self.kubelet.store, self.pod, where).of(spec)
        except ConfigError as error:
            return self._fail(container, "CreateContainerConfigError", str(error), text=str(error))
        container.begun, container.failure = True, None
        self._tell("Created", "Container created", container)
        self._after(START, partial(self._start, container, self._task(container, env)))
        return None

    def _task(self, container: Container, env: dict[str, str]) -> Task:
        spec = container.spec
        image = self.kubelet.images.get(spec["image"], Image())
        message = container.folder / "termination-log"
        path = spec.get("terminationMessagePath") or "/dev/termination-log"

        def placed(text: str) -> str:
            return text.replace(path, str(message))

        command = [expand(item, env) for item in spec.get("command") or image.entrypoint]
        args = spec.get("args")
        command += [expand(item, env) for item in (args if args is not None else () if spec.get("command") else image.cmd)]
        values = {**image.env, "HOSTNAME": self.pod["metadata"]["name"][:63], **env}
        return Task(
            [placed(item) for item in command],
            {name: placed(value) for name, value in values.items()},
            spec.get("workingDir") or image.cwd or str(container.folder),
            container.folder,
            container.log,
            message,
            self.pod["metadata"].get("annotations") or {},
        )

    def _start(self, container: Container, task: Task) -> None:
        def on_exit(how: Exit) -> None:
            self.kubelet.soon(partial(self._exited, container, how, time.time()))

        def start() -> Handle | StartError:
            if not task.command:
                return StartError("no command specified")
            try:
                return runtime.start(task, on_exit)
            except StartError as error:
                return error

        runtime = self.kubelet.runtime_for(self.pod)
        if runtime.quick:
            self._spawned(container, start())
        else:
            self.kubelet.engine.outside(KUBELET, start, partial(self._spawned, container))

    def _spawned(self, container: Container, outcome: Handle | StartError) -> None:
        self._addressed = True
        if isinstance(outcome, StartError):
            self._tell("Failed", f"Error: {outcome}", container, warning=True)
            container.finished = time.time()
            self._after(TOLD, partial(self._noticed, container, Exit(128, str(outcome), "StartError")))
            return
        container.handle, container.started = outcome, time.time()
        self._tell("Started", "Container started", container)
        if self.ending:
            self._stop(container)
        else:
            self._after(TOLD, lambda: self.kubelet.publish(self))

    def _exited(self, container: Container, how: Exit, at: float) -> None:
        container.finished = at
        self._after(NOTICE_ENDING if self.ending else NOTICE, partial(self._noticed, container, how))

    def _noticed(self, container: Container, how: Exit) -> None:
        container.ended(how)
        if self.ending:
            if not any(item.begun and item.exit is None for item in self.containers):
                self._finish()
            return
        self.kubelet.publish(self)
        if self._all_over():
            self._after(PHASE, self._told_over)
        elif container.initial and how.code == 0:
            self._proceed()

    def _told_over(self) -> None:
        if not self.ended and not self.ending:
            self.ended, self._sandbox = self._outcome(), False
            self.kubelet.publish(self)

    def _finish(self) -> None:
        """All containers have ended in a pod that is being ended: tell it, and take the object away if it is deleted."""
        for container in self.containers:
            if container.exit is None:
                container.lose()
        if not self.ended:
            self.ended, self._sandbox = ("Failed" if self.why[0] else self._outcome()), False
        if self._killer is not None:
            self._killer.cancel()
        self.kubelet.publish(self)
        if self._removes and not self._finishing:
            self._finishing = True
            self._after(REMOVAL, lambda: self.kubelet.remove(self))
        self.kubelet.finished(self)

    def _give_up(self) -> None:
        """End a pod whose containers never ran."""
        for container in self._main:
            container.shown = ("ContainerCreating", "")
        self.kubelet.publish(self)

        def sandbox_gone() -> None:
            self._sandbox = False
            self.kubelet.publish(self)

        self._after(SANDBOX_GONE, sandbox_gone)
        self._after(LOST, self._finish)

    def _stop(self, container: Container) -> None:
        if container.handle is not None and not container.stopped:
            container.stopped = True
            self._tell("Killing", f"Stopping container {container.name}", container)
            container.handle.signal(signal.SIGTERM)

    def _kill_in(self, grace: float) -> None:
        self._killer = self.kubelet.later_exactly(grace * self.kubelet.clock, self.kill)

    def _too_long(self) -> None:
        if self.ending or self.ended or self._all_over():
            return
        self.why = ("DeadlineExceeded", _DEADLINE)
        self._tell("DeadlineExceeded", _DEADLINE, None)
        self.end(self.pod["spec"].get("terminationGracePeriodSeconds", 30), removes=False)

    def _fail(self, container: Container, reason: str, message: str, *, text: str = "") -> None:
        self._tell("Failed", f"Error: {text or reason}", container, warning=True)
        container.failure = (reason, message)
        pulls = reason in ("ErrImagePull", "ImagePullBackOff")
        first, later = (PULL_AGAIN, PULL_RESYNC) if pulls else (AGAIN, RESYNC)
        container.retry = self._after(first if container.attempts == 1 else later, partial(self._again, container))

    def _again(self, container: Container) -> None:
        if not self.ending:
            self._addressed = True
            if container.failure is not None:
                container.shown = container.failure
            self.kubelet.publish(self)
            self._attempt(container)

    def _all_over(self) -> bool:
        """Whether no container runs or will run."""
        if any(container.exit is not None and container.exit.code != 0 for container in self._initial):
            return True
        return all(container.exit is not None for container in self._main)

    def _outcome(self) -> str:
        exits = [container.exit for container in self.containers]
        return "Succeeded" if all(how is not None and how.code == 0 for how in exits) else "Failed"

    def _tell(self, reason: str, message: str, container: Container | None, *, warning: bool = False) -> None:
        self.kubelet.tell(self.pod, reason, message, "" if container is None else container.name, warning=warning)

    def _after(self, seconds: float, call: Any) -> Timer:
        return self.kubelet.later(seconds, call)


def _list(names: list[str]) -> str:
    return f"[{' '.join(names)}]"
