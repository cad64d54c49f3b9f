"""The state of a container as its kubelet knows it, and its entry in the pod's status."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.doubles.kubernetes.engine.loop import Timer
from tests.doubles.kubernetes.nodes.runtime import Exit, Handle
from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.wire import new_digest, stamp

#: The limits of the end of the log that FallbackToLogsOnError takes.
TAIL_BYTES, TAIL_LINES = 2048, 80
_LOST = "The container could not be located when the pod was terminated"
_NEVER = "1970-01-01T00:00:00Z"


@dataclass(slots=True)
class Container:
    """One container of a pod on a node.

    ``shown`` is the waiting reason and message in the status. ``failure`` is that of the last
    attempt to start the container; the status has it from the next attempt on.
    """

    spec: Body
    folder: Path
    initial: bool
    shown: tuple[str, str] = ("ContainerCreating", "")
    failure: tuple[str, str] | None = None
    attempts: int = 0
    pulls: int = 0
    pull_after: float = 0.0
    begun: bool = False
    """The container was created: its process runs or is about to."""
    handle: Handle | None = None
    started: float | None = None
    finished: float | None = None
    exit: Exit | None = None
    retry: Timer | None = None
    stopped: bool = False
    id: str = field(default_factory=lambda: f"containerd://{new_digest()}")

    @property
    def name(self) -> str:
        """The name in the pod."""
        return str(self.spec["name"])

    @property
    def sidecar(self) -> bool:
        """Whether it is an init container that runs beside the main containers."""
        return self.initial and self.spec.get("restartPolicy") == "Always"

    @property
    def starting(self) -> bool:
        """Whether its image is being pulled, or its process is about to run."""
        pulled = self.retry is not None and self.failure is None and not self.begun
        created = self.begun and self.exit is None and self.started is None
        return pulled or (created and self.finished is None)

    @property
    def unborn(self) -> bool:
        """Whether it has neither started nor failed to."""
        ended = self.finished is not None or self.exit is not None
        return self.started is None and not ended and self.failure is None

    @property
    def log(self) -> Path:
        """The file with the output."""
        return self.folder / "log"

    def state(self) -> dict[str, Any]:
        """Return ``state`` of the status."""
        if self.exit is not None:
            return {"terminated": self._terminated(self.exit)}
        if self.started is not None:
            return {"running": {"startedAt": stamp(self.started)}}
        reason, message = self.shown
        return {"waiting": {"reason": reason, **({"message": message} if message else {})}}

    def status(self) -> dict[str, Any]:
        """Return the entry in the pod's status."""
        resources = self.spec.get("resources") or {}
        status: dict[str, Any] = {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "lastState": {},
            "ready": self.ready,
            "restartCount": 0,
            "started": self.started is not None and self.exit is None,
            "state": self.state(),
        }
        if self.begun and (self.started is not None or self.exit is not None):
            status |= {"containerID": self.id, "imageID": f"sha256:{self.id[-64:]}"}
            if resources:
                status |= {
                    "resources": resources,
                    "allocatedResources": resources.get("requests", {}),
                }
        return status

    @property
    def ready(self) -> bool:
        """Whether it is ready: an init container after its success, the others while they run."""
        if self.initial and not self.sidecar:
            return self.exit is not None and self.exit.code == 0
        return self.started is not None and self.exit is None

    @property
    def initialized(self) -> bool:
        """Whether the next container may start: a sidecar has started, others have succeeded."""
        return self.started is not None if self.sidecar else self.ready

    def terminate(self) -> bool:
        """Send SIGTERM if the container runs; False if it does not, or got one already."""
        if self.handle is None or self.exit is not None or self.stopped:
            return False
        self.stopped = True
        self.handle.signal(signal.SIGTERM)
        return True

    def kill(self, *, oom: bool) -> None:
        """Send SIGKILL if the container runs."""
        if self.handle is not None and self.exit is None:
            self.handle.oom = self.handle.oom or oom
            self.handle.signal(signal.SIGKILL)

    def ended(self, how: Exit) -> None:
        """Note the end; takes the message from the log if the manifest asks for it."""
        message = how.message
        if (
            not message
            and how.code != 0
            and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        ):
            message = tail(self.log)
        self.exit = Exit(how.code, message, how.reason)

    @property
    def lost(self) -> bool:
        """Whether the kubelet did not find it when the pod ended."""
        return self.exit is not None and self.exit.reason == "ContainerStatusUnknown"

    def lose(self) -> None:
        """Note that the container did not exist when the pod ended."""
        self.exit = Exit(137, _LOST, "ContainerStatusUnknown")
        self.started = self.finished = None

    def _terminated(self, how: Exit) -> dict[str, Any]:
        reason = how.reason or ("Completed" if how.code == 0 else "Error")
        state: dict[str, Any] = {"exitCode": how.code, "reason": reason}
        if how.message:
            state["message"] = how.message
        if self.lost:
            return {**state, "startedAt": None, "finishedAt": None}
        started = _NEVER if self.started is None else stamp(self.started)
        return {
            **state,
            "startedAt": started,
            "finishedAt": stamp(self.finished),
            "containerID": self.id,
        }


def tail(path: Path) -> str:
    """Return the end of a log, within the limits of a termination message."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            data = file.read()
    except OSError:
        return ""
    return "".join(data.decode(errors="replace").splitlines(keepends=True)[-TAIL_LINES:])
