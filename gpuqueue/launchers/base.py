"""The contract of every launcher, and the errors and callbacks that it uses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import GpuQueueError
from gpuqueue.model.attempt import Attempt, LiveAttempt, Observation, RunningAttempt
from gpuqueue.model.ends import End
from gpuqueue.model.place import PlaceKind, Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record

#: Seconds without a good answer of the cluster until what runs there counts as unknown. 10: several
#: tries to connect have failed by then, and a restart of an API server is over.
BLIND_AFTER = 10.0


class CannotLaunch(GpuQueueError):
    """The launcher refuses the attempt for good: it can never give what the job asks for."""

    def __init__(self, text: str, reason: EndReason = EndReason.BAD_SPEC) -> None:
        super().__init__(text)
        self.reason = reason


class LaunchLater(GpuQueueError):
    """The launcher does not know whether it has launched the attempt, or can do so in a moment.

    Args:
        after: seconds until the next try; None leaves it to the caller.
        limit: seconds from admission until the attempt gives its slot back, and its class is held.
    """

    def __init__(self, text: str, *, after: float | None, limit: float) -> None:
        super().__init__(text)
        self.after = after
        self.limit = limit


class LaunchHeld(GpuQueueError):
    """The cluster refuses the attempt as it would refuse others of its class: the job waits.

    Args:
        kind: what is held.
    """

    def __init__(self, text: str, kind: PlaceKind) -> None:
        super().__init__(text)
        self.kind = kind


class FinishHeld(GpuQueueError):
    """The cluster gives a finisher no pod, as it would give none to others of its class, or of its
    image: the finish waits.

    Args:
        kind: what the cluster lacks, or refuses.
    """

    def __init__(self, text: str, kind: PlaceKind) -> None:
        super().__init__(text)
        self.kind = kind


class ApplicationUnavailable(GpuQueueError):
    """The application cannot be loaded where the attempt would run; the job is not at fault."""


class LauncherUnavailable(GpuQueueError):
    """The launcher cannot tell at present which attempts run. Their absence proves nothing."""


class StopRefused(GpuQueueError):
    """This attempt may not be stopped for now; others may. It is logged, and can be repeated."""


class LauncherClosed(GpuQueueError):
    """This process is shutting down: the finish that it waited for continues, and a launch is left
    to another dispatcher."""


class LogGone(GpuQueueError):
    """The log of an attempt exists no longer."""


class NoLog(GpuQueueError):
    """An attempt never had a log: its container did not start."""


class LogSource(Protocol):
    """The whole log of an attempt that has ended, where its launcher has it."""

    @property
    def where(self) -> Mapping[str, str]:
        """What another dispatcher needs to find it: see :data:`FindLog`."""
        ...

    def read(self) -> Iterator[bytes]:
        """Yield its parts. Raises :class:`LogGone` or :class:`NoLog`; any other error passes."""
        ...


#: Returns the source of a log that another dispatcher has noted; None: it is not for this one.
FindLog = Callable[[Mapping[str, str]], LogSource | None]


class WholeLogs(Protocol):
    """Where launchers hand whole logs over. No call waits for the sink."""

    def keep(self, attempt: Attempt, source: LogSource) -> None:
        """Have the log of an ended attempt written, once. May be repeated."""
        ...

    def before(self, attempt: Attempt) -> list[Attempt]:
        """Return the attempts that its instance has ended before it, oldest first."""
        ...


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

    def confirmed_gone(self) -> Mapping[tuple[str, str], float]:
        """Return the nodes that operators have confirmed gone: (class, node) → when, in Unix
        seconds.
        """
        ...

    def with_slot(self, running: list[RunningAttempt]) -> list[RunningAttempt]:
        """Return those that hold a slot, or whose instance holds that of a later attempt."""
        ...

    def make_room(self, pods: int) -> None:
        """End pods without a job, since so many other pods find no room."""
        ...

    def set_nodes(
        self,
        gpu_class: GpuClass,
        nodes: Mapping[str, Mapping[str, int]] | None,
        more: int,
        owner: str,
    ) -> None:
        """Make these nodes of a cluster the domains of a class: name → isolation → slots. None: the
        class is one domain. ``more``: how many nodes an autoscaler may add; ``owner``: the cluster.

        Raises :class:`ServedElsewhere`: the domains stay the nodes of another cluster.
        """
        ...

    def give_up(self, attempt: Attempt, end: End) -> bool:
        """Record why an attempt is given up, before it is stopped.

        Returns False if the attempt runs by now or is no longer the current one.
        """
        ...

    def has_begun(self, attempt: Attempt) -> bool:
        """Return whether the attempt is current and was claimed: its code may have run."""
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

    @property
    def silent(self) -> Mapping[tuple[str, str], int]:
        """(class, node) → attempts that hold a slot there and may have ended without a word, as
        the leader knows them.
        """
        ...

    @property
    def elsewhere(self) -> Mapping[str, str]:
        """Class → the other cluster whose nodes are its domains, as the leader knows it."""
        ...

    def check_job(self, record: Record, gpu_class: GpuClass) -> None:
        """Refuse, at acceptance, a job that can never be launched here. Raises
        :class:`InvalidJob`.
        """
        ...

    def start(self, record: Record) -> str:
        """Start an attempt and return its instance. May be repeated.

        Raises :class:`CannotLaunch`, :class:`LaunchHeld`, :class:`LaunchLater`,
        :class:`ApplicationUnavailable`, or OSError for a failed attempt; :class:`LauncherClosed` if
        this process shuts down.
        """
        ...

    def stop(self, instance: str, signal: str) -> bool:
        """Send a signal (``TERM``, ``KILL``…) to an attempt; return False if it is gone. ``KILL``
        goes to its whole process group.

        Raises :class:`LauncherUnavailable`: try again; :class:`StopRefused`: and go on with others.
        """
        ...

    def abandon(self, record: Record) -> bool:
        """Prevent the start of an attempt with an unconfirmed launch. Return True if certainly
        nothing runs.

        Raises :class:`LauncherUnavailable`, :class:`StopRefused`: nothing is certain.
        """
        ...

    def end_of(self, instance: str) -> End | None:
        """Return how an instance ended. None while it runs, or if this launcher cannot know (the
        instance belongs to another machine).

        Raises :class:`LauncherUnavailable`.
        """
        ...

    def list(self) -> list[LiveAttempt]:
        """Return every attempt that runs or is about to, but of :attr:`unknown` classes. Raises
        :class:`LauncherUnavailable`.
        """
        ...

    @property
    def unknown(self) -> Collection[str]:
        """The classes of which the last :meth:`list` has told nothing: what they run is unknown."""
        ...

    def watch(self, running: RunningAttempt) -> None:
        """Report the end of an orphan, too: an attempt whose dispatcher is gone. Each dispatcher
        reports the other ends.
        """
        ...

    def lead(self, leads: bool) -> None:
        """Start or stop watching for all dispatchers: this process now leads, or no longer does."""
        ...

    def look(self) -> bool:
        """Return whether this process can do a leader's work now: the cluster answers it. May send
        a request. Thread-safe.
        """
        ...

    def unseen(self) -> float:
        """Return the age of the cluster's last good answer in seconds. 0: this process neither
        leads nor has to see again, or it needs no cluster. Thread-safe.
        """
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
        ``wanted``, ``timeout`` seconds after the start of the executor, or when it does not start
        in time. ``wanted`` is asked again and again, and keeps the claim of the finish.

        Raises :class:`LauncherClosed` if this process shuts down meanwhile; the finish continues.
        Raises :class:`FinishHeld` if no finisher of the class, or the image, gets a pod at present.
        Raises :class:`LauncherUnavailable`, or OSError, if the executor cannot be started.
        """
        ...

    def close(self) -> None:
        """Stop watching. Running attempts continue."""
        ...
