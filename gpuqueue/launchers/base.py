"""The contract of every launcher, and the errors and callbacks that it uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import GpuQueueError
from gpuqueue.model.attempt import Attempt, LiveAttempt, Observation, RunningAttempt
from gpuqueue.model.ends import End
from gpuqueue.model.place import Site
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.model.record import Record


class CannotLaunch(GpuQueueError):
    """The launcher refuses the attempt for good: it can never give what the job asks for."""

    def __init__(self, text: str, reason: EndReason = EndReason.BAD_SPEC) -> None:
        super().__init__(text)
        self.reason = reason


class LaunchLater(GpuQueueError):
    """The launcher cannot launch the attempt now, but a later try may succeed.

    Args:
        after: seconds until the next try; None leaves it to the caller.
        limit: seconds from admission until the attempt is given up.
        wait: the reason that ``why`` shows meanwhile.
        reason: the reason of the end if the attempt is given up.
    """

    def __init__(
        self, text: str, *, after: float | None, limit: float, wait: WaitReason, reason: EndReason
    ) -> None:
        super().__init__(text)
        self.after = after
        self.limit = limit
        self.wait = wait
        self.reason = reason


class ApplicationUnavailable(GpuQueueError):
    """The application cannot be loaded where the attempt would run; the job is not at fault."""


class LauncherUnavailable(GpuQueueError):
    """The launcher cannot tell at present which attempts run. Their absence proves nothing."""


class LauncherClosed(GpuQueueError):
    """This process is shutting down: the finish that it waited for continues, and a launch is left
    to another dispatcher."""


#: Called with each end. Returns whether this call freed the slot; an end may be reported twice.
OnEnd = Callable[[RunningAttempt, End], bool]


class Observations(Protocol):
    """Where a launcher records its observations, for later dispatchers and for ``why``."""

    def now(self) -> float:
        """Return the time in Unix seconds, the same for all dispatchers."""
        ...

    def observed(self, observations: list[Observation]) -> None:
        """Record what attempts wait for."""
        ...

    def make_room(self, pods: int) -> None:
        """End pods without a job, since so many other pods find no room."""
        ...

    def give_up(self, attempt: Attempt, reason: EndReason, error: str) -> bool:
        """Record why an attempt is given up, before it is stopped.

        Returns False if the attempt runs by now or is no longer the current one.
        """
        ...

    def begun(self, live: LiveAttempt, worker: str) -> None:
        """Record the start of a container job, which has no executor to report it."""
        ...

    def latest(self, running: RunningAttempt) -> Attempt:
        """Return the attempt that an instance ran last: it may have gone on to others."""
        ...

    def wants_log(self, attempt: Attempt) -> bool:
        """Return whether the job is known and no log of the attempt is stored yet."""
        ...

    def keep_log(self, attempt: Attempt, text: str) -> None:
        """Store the end of an attempt's log, which must outlive its pod."""
        ...


class Launcher(Protocol):
    """Starts and stops attempts."""

    owner: str
    """The cluster and queue that these attempts belong to. A dispatcher never touches attempts of
    another owner. Empty if the instance itself names its owner."""
    site: Site
    """What the places of these attempts are named after."""
    claim_within: float
    """Seconds from the launch, all waits included, within which an executor must claim its
    attempt."""
    finishers: int
    """How many finishes may run the application's code at the same time."""

    def check_job(self, record: Record, gpu_class: GpuClass) -> None:
        """Refuse, at acceptance, a job that can never be launched here. Raises
        :class:`InvalidJob`.
        """
        ...

    def start(self, record: Record) -> str:
        """Start an attempt and return its instance. May be repeated.

        Raises :class:`CannotLaunch`, :class:`LaunchLater`, :class:`ApplicationUnavailable`, or
        OSError for a failed attempt; :class:`LauncherClosed` if this process shuts down.
        """
        ...

    def stop(self, instance: str, signal: str) -> bool:
        """Send a signal (``TERM``, ``KILL``…) to an attempt; return False if it is gone. ``KILL``
        goes to its whole process group.

        Raises :class:`LauncherUnavailable`: try again.
        """
        ...

    def abandon(self, record: Record) -> bool:
        """Prevent the start of an attempt with an unconfirmed launch. Return True if certainly
        nothing runs.

        Raises :class:`LauncherUnavailable`: nothing is certain.
        """
        ...

    def end_of(self, instance: str) -> End | None:
        """Return how an instance ended. None while it runs, or if this launcher cannot know (the
        instance belongs to another machine).

        Raises :class:`LauncherUnavailable`.
        """
        ...

    def list(self) -> list[LiveAttempt]:
        """Return every attempt that runs or is about to. Raises :class:`LauncherUnavailable`."""
        ...

    def watch(self, running: RunningAttempt) -> None:
        """Report the end of an orphan, too: an attempt whose dispatcher is gone. Each dispatcher
        reports the other ends.
        """
        ...

    def lead(self, leads: bool) -> None:
        """Start or stop watching for all dispatchers: this process now leads, or no longer does."""
        ...

    def check(self, now: float) -> None:
        """Record what attempts wait for, and give up those that exceed a limit. The leader calls it
        about once a second.
        """
        ...

    def finish(
        self, record: Record, finisher: str, timeout: float, wanted: Callable[[], bool]
    ) -> Any:
        """Run the executor once, without a GPU, to finish a job in its application's code.

        Returns a status for the log when the executor ends, when the finish is no longer
        ``wanted``, or after ``timeout`` seconds.

        Raises :class:`LauncherClosed` if this process shuts down meanwhile; the finish continues.
        Raises :class:`LauncherUnavailable`, or OSError, if the executor cannot be started.
        """
        ...

    def close(self) -> None:
        """Stop watching. Running attempts continue."""
        ...
