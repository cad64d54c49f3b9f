"""How a kubelet starts a container: its image, its environment, its process, and what stands in the
way of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.engine.loop import KUBELET
from tests.doubles.kubernetes.nodes.container import Container
from tests.doubles.kubernetes.nodes.environment import (
    ConfigError,
    Environment,
    expand,
    missing_volume,
)
from tests.doubles.kubernetes.nodes.images import Image, name_error, pull_error
from tests.doubles.kubernetes.nodes.runtime import Exit, Handle, OnExit, Runtime, StartError, Task
from tests.doubles.kubernetes.objects.store import Body

if TYPE_CHECKING:
    from tests.doubles.kubernetes.nodes.kubelet import Kubelet

_MESSAGE_PATH = "/dev/termination-log"


class Starter:
    """Starts the containers of one pod.

    Args:
        kubelet: whose pod.
        pod: the pod.
        address: its address.
        on_retry: called before a container that could not be made is tried again; it answers
            whether it still should be.
        on_start: told of the process, or of why there is none.
        on_exit: told of the end of a process, and when that was (Unix seconds).
    """

    def __init__(
        self,
        kubelet: Kubelet,
        pod: Body,
        address: str,
        on_retry: Callable[[], bool],
        on_start: Callable[[Container, Handle | StartError | None], None],
        on_exit: Callable[[Container, Exit, float], None],
    ) -> None:
        self._kubelet = kubelet
        self._pod = pod
        self._address = address
        self._on_retry = on_retry
        self._on_start = on_start
        self._on_exit = on_exit

    def when_mounted(self, then: Callable[[], None], wait: float = delays.MOUNT_RETRY) -> None:
        """Go on once the pod's volumes are there."""
        missing = missing_volume(self._kubelet.store, self._pod)
        if not missing or "deletionTimestamp" in self._pod["metadata"]:
            then()
            return
        self._kubelet.tell(self._pod, "FailedMount", missing, "", warning=True)
        self._kubelet.later(
            wait, partial(self.when_mounted, then, min(2 * wait, delays.MOUNT_RETRY_LIMIT))
        )

    def adopt(self, container: Container, runtime: Runtime) -> None:
        """Let a container run without having started it."""
        container.begun = True
        task = self._task(
            container, Environment(self._kubelet.store, self._pod, {}).of(container.spec)
        )
        self._on_start(container, runtime.start(task, self._told_exit(container)))

    def attempt(self, container: Container) -> None:
        """Start a container if it can be; else say why not, and try again in a while."""
        image, policy = (
            container.spec["image"],
            container.spec.get("imagePullPolicy", "IfNotPresent"),
        )
        container.attempts += 1
        known = self._kubelet.images.get(image)
        if wrong := name_error(image):
            self._tell(container, "InspectFailed", wrong, warning=True)
            return self._fail(container, "InvalidImageName", wrong)
        present = known is not None and (known.pull_seconds == 0 or image in self._kubelet.pulled)
        if policy == "Never" and not present:
            told = f'Container image "{image}" is not present with pull policy of Never'
            self._tell(container, "ErrImageNeverPull", told, warning=True)
            return self._fail(container, "ErrImageNeverPull", told)
        if present and policy != "Always":
            told = (
                f'Container image "{image}" already present on machine and can be accessed by'
                " the pod"
            )
            self._tell(container, "Pulled", told)
            return self._create(container)
        return self._pull(container, image, known)

    def _pull(self, container: Container, image: str, known: Image | None) -> None:
        now = time.monotonic()
        if now < container.pull_after:
            told = f'Back-off pulling image "{image}"'
            self._tell(container, "BackOff", told)
            return self._fail(
                container, "ImagePullBackOff", f"{told}: ErrImagePull: {pull_error(image)}"
            )
        self._tell(container, "Pulling", f'Pulling image "{image}"')
        if known is None:
            wait = min(delays.PULL_BACK_OFF * 2**container.pulls, delays.PULL_BACK_OFF_LIMIT)
            container.pulls += 1
            container.pull_after = now + wait * self._kubelet.engine.pace
            self._tell(
                container,
                "Failed",
                f'Failed to pull image "{image}": {pull_error(image)}',
                warning=True,
            )
            return self._fail(container, "ErrImagePull", pull_error(image))
        takes = known.pull_seconds + self._kubelet.slow_pulls
        container.retry = self._kubelet.later_exactly(
            takes, partial(self._pulled, container, image, now)
        )
        return None

    def _pulled(self, container: Container, image: str, since: float) -> None:
        took = time.monotonic() - since
        self._kubelet.pulled.add(image)
        told = (
            f'Successfully pulled image "{image}" in {took:.3f}s ({took:.3f}s including waiting).'
            " Image size: 104857600 bytes."
        )
        self._tell(container, "Pulled", told)
        self._create(container)

    def _create(self, container: Container) -> None:
        kubelet = self._kubelet
        where = {
            "status.podIP": self._address,
            "status.hostIP": kubelet.address,
            "spec.nodeName": kubelet.name,
        }
        try:
            env = Environment(kubelet.store, self._pod, where).of(container.spec)
        except ConfigError as error:
            return self._fail(container, "CreateContainerConfigError", str(error), text=str(error))
        container.begun, container.failure = True, None
        self._tell(container, "Created", "Container created")
        kubelet.later(delays.START, partial(self._start, container, self._task(container, env)))
        return None

    def _task(self, container: Container, env: dict[str, str]) -> Task:
        spec = container.spec
        image = self._kubelet.images.get(spec["image"], Image())
        message = container.folder / "termination-log"
        path = spec.get("terminationMessagePath") or _MESSAGE_PATH

        def placed(text: str) -> str:
            return text.replace(path, str(message))

        given = spec.get("args")
        command = spec.get("command") or image.entrypoint
        args = given if given is not None else () if spec.get("command") else image.cmd
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
        kubelet, runtime = self._kubelet, self._kubelet.runtime_for(self._pod)

        on_exit = self._told_exit(container)

        def start() -> Handle | StartError:
            if not task.command:
                return StartError("no command specified")
            try:
                return runtime.start(task, on_exit)
            except StartError as error:
                return error

        if not self._on_retry():  # the pod is being ended meanwhile
            self._on_start(container, None)
        elif runtime.quick:
            self._on_start(container, start())
        else:
            kubelet.engine.outside(KUBELET, start, partial(self._on_start, container))

    def _told_exit(self, container: Container) -> OnExit:
        return lambda how: self._kubelet.soon(partial(self._on_exit, container, how, time.time()))

    def _fail(self, container: Container, reason: str, message: str, *, text: str = "") -> None:
        self._tell(container, "Failed", f"Error: {text or reason}", warning=True)
        container.failure = (reason, message)
        pulls = reason in ("ErrImagePull", "ImagePullBackOff")
        first, later = (
            (delays.PULL_RETRY, delays.PULL_RESYNC) if pulls else (delays.RETRY, delays.RESYNC)
        )
        container.retry = self._kubelet.later(
            first if container.attempts == 1 else later, partial(self._again, container)
        )

    def _again(self, container: Container) -> None:
        if container.failure is not None:
            container.shown = container.failure
        if self._on_retry():
            self.attempt(container)

    def _tell(
        self, container: Container, reason: str, message: str, *, warning: bool = False
    ) -> None:
        self._kubelet.tell(self._pod, reason, message, container.name, warning=warning)
