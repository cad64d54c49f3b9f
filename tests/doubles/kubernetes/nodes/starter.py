"""The start of a container: its image, its environment, its process, and the obstacles of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from tests.doubles.kubernetes import clock
from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.nodes.container import Container
from tests.doubles.kubernetes.nodes.environment import (
    ConfigError,
    Environment,
    expand,
    missing_volume,
)
from tests.doubles.kubernetes.nodes.host import Host
from tests.doubles.kubernetes.nodes.images import Image, name_error, pull_error
from tests.doubles.kubernetes.nodes.runtime import Exit, Handle, OnExit, Runtime, StartError, Task
from tests.doubles.kubernetes.objects.bodies import Body, is_terminating
from tests.doubles.kubernetes.objects.kinds import RUNTIME_CLASSES

_MESSAGE_PATH = "/dev/termination-log"


class Observer(Protocol):
    """Takes the results of a starter, in the engine's thread."""

    def may_start(self) -> bool:
        """Whether a container may still start."""

    def started(self, container: Container, outcome: Handle | StartError | None) -> None:
        """Take the handle or the error of a start, or None for a start that was dropped."""

    def exited(self, container: Container, how: Exit, at: float) -> None:
        """Take the end of a process; ``at`` is in Unix seconds."""

    def failed(self, container: Container) -> None:
        """Take that a container cannot start now."""


class Starter:
    """Starts the containers of one pod.

    Args:
        pod: the pod.
        address: the IP address of the pod.
        host: the machine of the node.
        observer: takes starts and ends.
    """

    def __init__(self, pod: Body, address: str, host: Host, observer: Observer) -> None:
        self._pod = pod
        self._address = address
        self._host = host
        self._timers = host.timers
        self._observer = observer

    def when_mounted(self, then: Callable[[], None], wait: float = delays.MOUNT_RETRY) -> None:
        """Call ``then`` once the volumes of the pod exist."""
        missing = missing_volume(self._host.store, self._pod)
        why = self._host.no_sandbox or self._no_runtime()
        if not (missing or why) or is_terminating(self._pod):
            then()
            return
        if missing:
            self._host.reporter.record(self._pod, "FailedMount", missing, warning=True)
        else:
            message = f"Failed to create pod sandbox: rpc error: code = Unknown desc = {why}"
            self._host.reporter.record(self._pod, "FailedCreatePodSandBox", message, warning=True)
        longer = min(2 * wait, delays.MOUNT_RETRY_LIMIT)
        self._timers.later(wait, partial(self.when_mounted, then, longer))

    def _no_runtime(self) -> str:
        """Return why the node cannot run pods of this RuntimeClass; empty if it can. One that does
        not exist is taken for one of the node.
        """
        wanted = self._pod["spec"].get("runtimeClassName")
        found = self._host.store.get(RUNTIME_CLASSES, "", wanted) if wanted else None
        if found is None or found["handler"] in self._host.runtimes:
            return ""
        name = found["handler"]
        return f'failed to get sandbox runtime: no runtime for "{name}" is configured'

    def adopt(self, container: Container, runtime: Runtime) -> None:
        """Take over a container as if it ran already."""
        container.begun = True
        env = Environment(self._host.store, self._pod, {}).of(container.spec)
        handle = runtime.start(self._task(container, env), self._on_exit(container))
        self._observer.started(container, handle)

    def attempt(self, container: Container) -> None:
        """Start a container, or report why it cannot start and try again later."""
        image = container.spec["image"]
        policy = container.spec.get("imagePullPolicy", "IfNotPresent")
        container.attempts += 1
        known = self._host.images.get(image)
        if problem := name_error(image):
            self._record(container, "InspectFailed", problem, warning=True)
            return self._fail(container, "InvalidImageName", problem)
        present = known is not None and (known.pull_seconds == 0 or image in self._host.pulled)
        if policy == "Never" and not present:
            message = f'Container image "{image}" is not present with pull policy of Never'
            self._record(container, "ErrImageNeverPull", message, warning=True)
            return self._fail(container, "ErrImageNeverPull", message)
        if present and policy != "Always":
            message = (
                f'Container image "{image}" already present on machine and can be accessed by'
                " the pod"
            )
            self._record(container, "Pulled", message)
            return self._create(container)
        return self._pull(container, image, known)

    def _pull(self, container: Container, image: str, known: Image | None) -> None:
        now = time.monotonic()
        if now < container.pull_after:
            message = f'Back-off pulling image "{image}"'
            self._record(container, "BackOff", message)
            why = f"{message}: ErrImagePull: {self._pull_error(image)}"
            return self._fail(container, "ImagePullBackOff", why)
        self._record(container, "Pulling", f'Pulling image "{image}"')
        if known is None or self._host.registry_answer != 200:
            wait = min(delays.PULL_BACK_OFF * 2**container.pulls, delays.PULL_BACK_OFF_LIMIT)
            container.pulls += 1
            container.pull_after = now + wait * self._timers.pace
            error = self._pull_error(image)
            message = f'Failed to pull image "{image}": {error}'
            self._record(container, "Failed", message, warning=True)
            return self._fail(container, "ErrImagePull", error)
        container.retry = self._timers.later_exactly(
            known.pull_seconds + self._host.slow_pulls,
            partial(self._pulled, container, image, now),
        )
        return None

    def _pull_error(self, image: str) -> str:
        return pull_error(image, self._host.registry_answer)

    def _pulled(self, container: Container, image: str, since: float) -> None:
        took = time.monotonic() - since
        self._host.pulled.add(image)
        message = (
            f'Successfully pulled image "{image}" in {took:.3f}s ({took:.3f}s including waiting).'
            " Image size: 104857600 bytes."
        )
        self._record(container, "Pulled", message)
        self._create(container)

    def _create(self, container: Container) -> None:
        status = {
            "status.podIP": self._address,
            "status.hostIP": self._host.address,
            "spec.nodeName": self._host.name,
        }
        try:
            env = Environment(self._host.store, self._pod, status).of(container.spec)
        except ConfigError as error:
            return self._fail(container, "CreateContainerConfigError", str(error), event=str(error))
        container.begun, container.failure = True, None
        self._record(container, "Created", "Container created")
        task = self._task(container, env)
        self._timers.later(delays.START, partial(self._start, container, task))
        return None

    def _task(self, container: Container, env: dict[str, str]) -> Task:
        spec = container.spec
        image = self._host.images.get(spec["image"], Image())
        message = container.folder / "termination-log"
        path = spec.get("terminationMessagePath") or _MESSAGE_PATH

        def placed(text: str) -> str:
            return text.replace(path, str(message))

        command = spec.get("command") or image.entrypoint
        args = spec.get("args")
        if args is None:
            args = () if spec.get("command") else image.cmd
        values = {**image.env, "HOSTNAME": self._pod["metadata"]["name"][:63], **env}
        return Task(
            [placed(expand(item, env)) for item in (*command, *args)],
            {name: placed(value) for name, value in values.items()},
            spec.get("workingDir") or image.cwd or str(container.folder),
            container.folder,
            container.log,
            message,
            self._pod["metadata"].get("annotations") or {},
        )

    def _start(self, container: Container, task: Task) -> None:
        runtime, on_exit = self._host.runtime_for(self._pod), self._on_exit(container)

        def start() -> Handle | StartError:
            if not task.command:
                return StartError("no command specified")
            try:
                return runtime.start(task, on_exit)
            except StartError as error:
                return error

        if not self._observer.may_start():  # the pod started to terminate meanwhile
            self._observer.started(container, None)
        elif runtime.quick:
            self._observer.started(container, start())
        else:
            self._timers.outside(start, partial(self._observer.started, container))

    def _on_exit(self, container: Container) -> OnExit:
        """Return the callback of a runtime, which calls it from any thread."""
        return lambda how: self._timers.soon(
            partial(self._observer.exited, container, how, clock.now())
        )

    def _fail(self, container: Container, reason: str, message: str, *, event: str = "") -> None:
        self._record(container, "Failed", f"Error: {event or reason}", warning=True)
        container.failure = (reason, message)
        first, later = delays.RETRY, delays.RESYNC
        if reason in ("ErrImagePull", "ImagePullBackOff"):
            first, later = delays.PULL_RETRY, delays.PULL_RESYNC
        wait = first if container.attempts == 1 else later
        container.retry = self._timers.later(wait, partial(self._retry, container))
        self._observer.failed(container)

    def _retry(self, container: Container) -> None:
        if container.failure is not None:
            container.shown = container.failure
        if self._observer.may_start():
            self.attempt(container)

    def _record(
        self, container: Container, reason: str, message: str, *, warning: bool = False
    ) -> None:
        self._host.reporter.record(self._pod, reason, message, container.name, warning=warning)
