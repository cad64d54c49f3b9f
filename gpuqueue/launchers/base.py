"""What every launcher offers, and the words it uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import GpuQueueError
from gpuqueue.model.ends import End
from gpuqueue.model.job import Record
from gpuqueue.model.reasons import EndReason, WaitReason


class CannotLaunch(GpuQueueError):
    """The launcher refuses the attempt for good: what the job asks for cannot be had here."""

    def __init__(self, text: str, reason: EndReason = EndReason.BAD_SPEC) -> None:
        super().__init__(text)
        self.reason = reason


class LaunchLater(GpuQueueError):
    """The attempt cannot be launched now; trying again may help.

    ``after``: seconds until then, None: as the caller likes. ``limit``: seconds from admission
    after which it is given up, for ``reason``. ``wait`` is what ``why`` shows meanwhile.
    """

    def __init__(
        self, text: str, *, after: float | None, limit: float, wait: WaitReason, reason: EndReason
    ) -> None:
        super().__init__(text)
        self.after = after
        self.limit = limit
        self.wait = wait
        self.reason = reason


class LauncherUnavailable(GpuQueueError):
    """What runs cannot be known at present: nobody may conclude anything from not seeing it."""


class LauncherClosed(GpuQueueError):
    """This process is leaving; what it waited for goes on without it."""


@dataclass(frozen=True, slots=True)
class Held:
    """One attempt and what runs it. ``instance`` is empty where nothing was ever seen of it."""

    gpu_class: str
    delivery: str
    attempt: int
    instance: str


@dataclass(frozen=True, slots=True)
class Live:
    """An attempt that really runs, as its environment (or annotations) tell: enough to adopt it
    when Redis has lost it.
    """

    instance: str
    record: Record


@dataclass(frozen=True, slots=True)
class Observed:
    """What keeps an attempt from running, or from ending. ``claim_within``: seconds its executor
    has from now on.
    """

    held: Held
    wait: WaitReason | None = None
    detail: str = ""
    pod: str = ""
    node: str = ""
    claim_within: float | None = None


#: Told of an end; answers whether that freed the slot. It may have been told before.
OnEnd = Callable[[Held, End], bool]


class Notes(Protocol):
    """Where a launcher writes what it saw; kept for whoever comes after it."""

    def observed(self, seen: list[Observed]) -> None:
        """Note what attempts wait for."""
        ...

    def doom(self, held: Held, reason: EndReason, error: str) -> bool:
        """Note why an attempt is given up, before it is ended; False: it runs by now, or is not
        current.
        """
        ...

    def begun(self, held: Held, record: Record, worker: str) -> None:
        """A job without an executor of ours runs: what an executor would tell is told for it."""
        ...

    def wants_log(self, held: Held) -> bool:
        """Whether the job is known, and nothing of the attempt's log is kept yet."""
        ...

    def keep_log(self, held: Held, text: str) -> None:
        """Keep the end of an attempt's log beyond its pod."""
        ...


class Launcher(Protocol):
    """Starts and stops attempts."""

    owner: str
    """Whose attempts these are: those of another owner (another cluster) are never touched. Empty:
    this kind of launcher tells by the instance."""
    claim_within: float
    """Seconds from the launch until an executor must have claimed its attempt, all its waits
    included.
    """
    finishers: int
    """Finishes in the application's code that may be under way at once."""

    def check_job(self, record: Record, gpu_class: GpuClass) -> None:
        """Refuse what can never be launched here, when it is accepted. Raises :class:`InvalidJob`."""
        ...

    def start(self, record: Record) -> str:
        """Start an attempt; answers its instance. May be repeated.

        Raises :class:`CannotLaunch`, :class:`LaunchLater`, or OSError for an attempt that failed.
        """
        ...

    def stop(self, instance: str, signal: str) -> bool:
        """Send a signal (``TERM``, ``KILL``…) to an attempt; False when it is gone. ``KILL`` takes
        its whole group.

        Raises :class:`LauncherUnavailable`: try again.
        """
        ...

    def abandon(self, record: Record) -> bool:
        """See to it that an attempt whose launch nobody confirmed does not start any more; True
        when surely nothing runs.

        Raises :class:`LauncherUnavailable`: nothing is sure.
        """
        ...

    def end_of(self, instance: str) -> End | None:
        """Say how an instance ended; None while it runs, or where this launcher cannot see it
        (another machine's).

        Raises :class:`LauncherUnavailable`.
        """
        ...

    def list(self) -> list[Live]:
        """Return every attempt that really runs, or is about to. Raises
        :class:`LauncherUnavailable`.
        """
        ...

    def watch(self, held: Held) -> None:
        """See to it that the end of an orphan (its dispatcher is gone) is told too; the others' is
        told by theirs.
        """
        ...

    def lead(self, leads: bool) -> None:
        """This process leads now, or no longer: the one that leads watches for all."""
        ...

    def check(self, now: float) -> None:
        """Note what attempts wait for, and give up those whose clock ran out. Called about once a
        second by the leader.
        """
        ...

    def finish(
        self, record: Record, finisher: str, timeout: float, wanted: Callable[[], bool]
    ) -> Any:
        """Run the executor once to finish a job in its application's code, without a GPU.

        Answers how it ended (for the log) when it did, when it is no longer ``wanted``, or past the
        timeout (seconds).

        Raises :class:`LauncherClosed` when this process leaves meanwhile; the finish goes on.
        """
        ...

    def close(self) -> None:
        """Stop watching. What runs goes on."""
        ...
