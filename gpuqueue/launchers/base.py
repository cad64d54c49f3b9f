"""What every launcher offers, and the words it uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gpuqueue.errors import GpuQueueError
from gpuqueue.job import Record


class CannotLaunch(GpuQueueError):
    """The launcher refuses the attempt for good: what the job asks for does not exist here."""


class LauncherClosed(GpuQueueError):
    """This process is leaving; what it waited for goes on without it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One attempt's process (or pod) is gone. ``code`` as ``subprocess`` gives it; None: nobody saw how."""

    gpu_class: str
    delivery: str
    attempt: int
    instance: str
    code: int | None


@dataclass(frozen=True, slots=True)
class Live:
    """An attempt that really runs, as its environment (or labels) tell: enough to adopt it when Redis has lost it."""

    instance: str
    record: Record


class Launcher(Protocol):
    """Starts and stops attempts."""

    def start(self, record: Record) -> str:
        """Start an attempt; answers its instance. Raises :class:`CannotLaunch`, or OSError where trying again may help."""
        ...

    def stop(self, instance: str, signal: str) -> bool:
        """Send a signal (``TERM``, ``KILL``…) to an attempt; False when it is gone. ``KILL`` takes its whole group."""
        ...

    def alive(self, instance: str) -> bool:
        """Whether an instance still runs. True for those that this launcher cannot see (another machine's)."""
        ...

    def list(self) -> list[Live]:
        """Return every attempt that really runs."""
        ...

    def watch(self, ended: Ended) -> None:
        """See to it that the end of an orphan (its dispatcher is gone) is told too; the others' is told by theirs."""
        ...

    def finish(self, record: Record, finisher: str, timeout: float) -> int | None:
        """Run the executor once to finish a job in its application's code, without a GPU.

        Answers its exit status, None past the timeout (seconds).

        Raises :class:`LauncherClosed` when this process leaves meanwhile; the finish goes on.
        """
        ...

    def close(self) -> None:
        """Stop watching. What runs goes on."""
        ...


OnEnd = Callable[[Ended], None]
