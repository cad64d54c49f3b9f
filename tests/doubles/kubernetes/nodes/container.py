"""A container as its kubelet sees it, and what it says of it in the pod's status."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.doubles.kubernetes.engine.loop import Timer
from tests.doubles.kubernetes.nodes.runtime import Exit, Handle
from tests.doubles.kubernetes.objects.store import Body
from tests.doubles.kubernetes.objects.wire import new_digest, stamp

#: What FallbackToLogsOnError takes of the log at most.
TAIL_BYTES, TAIL_LINES = 2048, 80
_LOST = "The container could not be located when the pod was terminated"
_NEVER = "1970-01-01T00:00:00Z"


@dataclass(slots=True)
class Container:
    """One container of a pod on a node.

    ``shown`` is the waiting reason and message that the status gives, ``failure`` those of the last
    attempt to start it, which the status gives from the next attempt on.
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
    """It is being created: its process is there or is on its way."""
    handle: Handle | None = None
    started: float | None = None
    finished: float | None = None
    exit: Exit | None = None
    retry: Timer | None = None
    stopped: bool = False
    id: str = field(default_factory=lambda: f"containerd://{new_digest()}")

    @property
    def name(self) -> str:
        """Its name in the pod."""
        return str(self.spec["name"])

    @property
    def sidecar(self) -> bool:
        """Whether it is an initial container that runs beside the others."""
        return self.initial and self.spec.get("restartPolicy") == "Always"

    @property
    def runs(self) -> bool:
        """Whether it has a process, as far as the kubelet has noticed."""
        return self.handle is not None and self.exit is None

    @property
    def log(self) -> Path:
        """Its output."""
        return self.folder / "log"

    def state(self) -> dict[str, Any]:
        """``state`` in the status."""
        if self.exit is not None:
            return {"terminated": self._terminated(self.exit)}
        if self.started is not None:
            return {"running": {"startedAt": stamp(self.started)}}
        reason, message = self.shown
        return {"waiting": {"reason": reason, **({"message": message} if message else {})}}

    def status(self) -> dict[str, Any]:
        """Its entry in the pod's status."""
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
        """Whether it counts as ready: an initial one when it is done, the others while they run."""
        if self.initial and not self.sidecar:
            return self.exit is not None and self.exit.code == 0
        return self.started is not None and self.exit is None

    def ended(self, how: Exit) -> None:
        """It has ended: the message may have to be taken from its log."""
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
        """Whether it was never found when the pod was ended."""
        return self.exit is not None and self.exit.reason == "ContainerStatusUnknown"

    def lose(self) -> None:
        """It was never there when the pod was terminated."""
        self.exit = Exit(137, _LOST, "ContainerStatusUnknown")
        self.started = self.finished = None

    def _terminated(self, how: Exit) -> dict[str, Any]:
        reason = how.reason or ("Completed" if how.code == 0 else "Error")
        told: dict[str, Any] = {"exitCode": how.code, "reason": reason}
        if how.message:
            told["message"] = how.message
        if self.lost:
            return {**told, "startedAt": None, "finishedAt": None}
        started = _NEVER if self.started is None else stamp(self.started)
        return {
            **told,
            "startedAt": started,
            "finishedAt": stamp(self.finished),
            "containerID": self.id,
        }


def tail(path: Path) -> str:
    """The end of a log, as far as it goes into a termination message."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            data = file.read()
    except OSError:
        return ""
    return "".join(data.decode(errors="replace").splitlines(keepends=True)[-TAIL_LINES:])
