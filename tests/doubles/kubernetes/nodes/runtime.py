"""The contract between a kubelet and a container runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class StartError(Exception):
    """A command that cannot start. The message is that of a real container runtime."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a container runs. ``annotations`` are those of the pod, for the scripted runtime."""

    command: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    folder: Path
    log: Path
    message: Path
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a container. ``code`` is the exit code that the kubelet reports."""

    code: int
    message: str = ""
    reason: str = ""


class Handle(Protocol):
    """A container that runs. ``oom``: its end counts as a kill at the memory limit."""

    oom: bool

    def signal(self, number: int) -> None:
        """Signal the first process; SIGKILL goes to all processes."""

    def pids(self) -> list[int]:
        """Return the processes, the first one first."""


OnExit = Callable[[Exit], None]


class Runtime(Protocol):
    """Starts containers. ``quick``: a start needs no time and no thread."""

    @property
    def quick(self) -> bool:
        """Whether a start needs no time."""

    def start(self, task: Task, on_exit: OnExit) -> Handle:
        """Start a container.

        The runtime calls ``on_exit`` once, from any thread, after all processes have ended.

        Raises:
            StartError: the command cannot run.
        """

    def close(self) -> None:
        """Kill all containers."""
