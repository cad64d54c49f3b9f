"""Slots: grant them, launch the attempts that hold one, free them, and hand them on.

Each step is one script and may be repeated. If this process dies after a step, the watcher repairs
it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.dispatcher.job_states import JobStates
from gpuqueue.dispatcher.place_log import PlaceLog
from gpuqueue.dispatcher.timer import Timer
from gpuqueue.launchers.base import (
    ApplicationUnavailable,
    CannotLaunch,
    Launcher,
    LauncherClosed,
    LauncherUnavailable,
    LaunchHeld,
    LaunchLater,
    StopRefused,
)
from gpuqueue.model.attempt import Attempt, Observation, RunningAttempt
from gpuqueue.model.ends import End
from gpuqueue.model.place import HOLDS, PlaceKind
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.states import BEFORE_SLOT, DISPATCHED, JobState
from gpuqueue.store import wakeups
from gpuqueue.store.answers import MOVING, Granted
from gpuqueue.store.client import Redis, RedisError
from gpuqueue.store.clock import redis_time
from gpuqueue.store.line import Line
from gpuqueue.store.passing import passes
from gpuqueue.telemetry import LAUNCHES, STEP_FAILURES

logger = logging.getLogger(__name__)
#: Seconds until the next try of a launch that the cluster did not take. The pause doubles up to the
#: second value.
EARLIEST, LATEST = 0.5, 30.0
#: How much earlier than written a postponed launch may be tried, in seconds: clocks differ.
EARLY = 0.2


class Slots:
    """The slots of one dispatcher's classes. Thread-safe.

    Args:
        client, line: the state.
        classes: name → class.
        launcher: starts the attempts.
        states: where DISPATCHED is stored.
        finisher: finishes the jobs whose executor did not.
        threads: launches under way at the same time.
    """

    def __init__(
        self,
        client: Redis,
        line: Line,
        classes: Mapping[str, GpuClass],
        launcher: Launcher,
        states: JobStates,
        finisher: Finisher,
        threads: int = 8,
    ) -> None:
        self._client = client
        self._line = line
        self._classes = classes
        self._launcher = launcher
        self._states = states
        self._finisher = finisher
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuqueue-launch")
        self._places = PlaceLog(client)
        self._timer = Timer("gpuqueue-launch-later", "launch later")

    # -- launch ------------------------------------------------------------------------------------

    def enqueue(self, gpu_class: GpuClass, delivery: str) -> None:
        """Put a delivery in line that was only stored, and launch each attempt that may start."""
        self.launch(gpu_class, self._line.enqueue(gpu_class, delivery))

    def relaunch(self, record: Record) -> None:
        """Launch an attempt again whose launch is unconfirmed."""
        self._submit(record, repeated=True)

    def launch(self, gpu_class: GpuClass, granted: Granted) -> None:
        """Launch each attempt that may start, and those that the decision did not come to."""
        while granted:
            for record in granted:
                self._submit(record)
            granted = self._line.admit(gpu_class) if granted.more else Granted()
        if granted.more:  # only expired jobs: the watcher goes on, since there may be many
            wakeups.wake(self._client, gpu_class.name)

    def _submit(self, record: Record, *, repeated: bool = False) -> None:
        try:
            self._pool.submit(self._launch, record, repeated)
        except RuntimeError as exc:
            # This dispatcher shuts down, or has no thread left: a watcher launches the attempt.
            _left(record, exc)

    def _launch(self, record: Record, repeated: bool) -> None:
        try:
            attempt = Attempt.of(record)
            if not repeated:
                self._states.store(record, DISPATCHED)
            try:
                instance = self._launcher.start(record)
            except LauncherClosed as exc:
                _left(record, exc)
            except LaunchLater as exc:
                LAUNCHES.labels(attempt.gpu_class, "later").inc()
                self._put_off(record, exc)
            except LaunchHeld as exc:
                LAUNCHES.labels(attempt.gpu_class, "held").inc()
                self._hold(attempt, exc.kind, str(exc))
            except (CannotLaunch, ApplicationUnavailable, OSError) as exc:
                LAUNCHES.labels(attempt.gpu_class, "failed").inc()
                self._launch_failed(attempt, exc)
            except Exception as exc:  # a fault of the launcher: it would meet each repeat
                LAUNCHES.labels(attempt.gpu_class, "failed").inc()
                logger.exception(
                    "%s: launch failed", attempt.delivery, extra={"action": "launch_failed"}
                )
                if self._launcher.abandon(record):  # else something runs, and its end is reported
                    self._launch_failed(attempt, exc)
            else:
                LAUNCHES.labels(attempt.gpu_class, "launched").inc()
                self._line.launched(attempt, instance, self._launcher.claim_within)
                logger.info(
                    "%s launched, attempt %s",
                    attempt.delivery,
                    attempt.number,
                    extra={"action": "launched"},
                )
        except Exception as exc:
            # Most likely Redis is away. The watcher finds out whether the attempt runs, and repeats
            # the launch if it does not.
            STEP_FAILURES.labels("launch").inc()
            logger.error(
                "%s: launch not confirmed: %s: %s",
                record.get("delivery"),
                type(exc).__name__,
                exc,
                extra={"action": "launch_unsure"},
                exc_info=None if passes(exc) else exc,
            )

    def _hold(self, attempt: Attempt, kind: PlaceKind, text: str) -> None:
        """Give the slot of an attempt back that was certainly not launched; its class waits."""
        logger.warning(
            "%s not launched, waits: %s", attempt.delivery, text, extra={"action": "launch_held"}
        )
        end = End(HOLDS[kind].end, text, blames=kind)
        self._release(RunningAttempt(attempt, ""), end)

    def _launch_failed(self, attempt: Attempt, exc: Exception) -> None:
        logger.warning(
            "%s not launched: %s", attempt.delivery, exc, extra={"action": "launch_failed"}
        )
        final = isinstance(exc, CannotLaunch)
        reason = exc.reason if isinstance(exc, CannotLaunch) else EndReason.INFRA
        known = isinstance(exc, CannotLaunch | ApplicationUnavailable | OSError)
        text = str(exc) if known else repr(exc)
        loads = not isinstance(exc, ApplicationUnavailable)
        place = PlaceKind.HOST if loads else PlaceKind.APPLICATION
        end = End(reason, text, blames="" if final else place)
        self._release(RunningAttempt(attempt, ""), end, final=final)

    def _put_off(self, record: Record, why: LaunchLater) -> None:
        """Retry a launch after a pause while the job is wanted and time is left. The attempt keeps
        its slot.
        """
        attempt = Attempt.of(record)
        waited = redis_time(self._client) - record["admitted"]
        if waited >= why.limit and self._nothing_runs(record):
            self._hold(attempt, PlaceKind.LAUNCH, f"not within {why.limit:g} s: {why}")
            return
        pause = min(LATEST, max(EARLIEST, waited)) if why.after is None else min(LATEST, why.after)
        logger.warning(
            "%s not launched; next try in %.1f s: %s",
            attempt.delivery,
            pause,
            why,
            extra={"action": "launch_later"},
        )
        wait = HOLDS[PlaceKind.LAUNCH].wait
        self._line.observed([Observation(attempt, wait, str(why), launch_in=pause)])

        def again() -> None:
            found = self._line.relaunch(attempt, -EARLY)
            if found:  # else it is cancelled, or another process has launched it
                self.relaunch(found)

        self._timer.call(pause, again, attempt.holder)

    def _nothing_runs(self, record: Record) -> bool:
        """Return whether a launch was certainly prevented."""
        try:
            return self._launcher.abandon(record)
        except (LauncherUnavailable, StopRefused):
            return False  # unknown: the slot stays taken

    # -- free --------------------------------------------------------------------------------------

    def on_end(self, running: RunningAttempt, end: End) -> bool:
        """An attempt has ended: free its slot and hand it on. If its executor did not finish the
        job, have it finished. What fails in Redis is tried again, since the watcher would not know
        how the attempt has ended, and a script that failed may have freed the slot.

        Returns whether this call freed the slot.
        """
        return self._on_end(running, end, EARLIEST)

    def _on_end(self, running: RunningAttempt, end: End, pause: float) -> bool:
        try:
            return self._release(running, end)
        except RedisError as exc:
            first = pause == EARLIEST
            logger.log(
                logging.WARNING if passes(exc) else logging.ERROR,
                "%s: end not written yet: %s",
                running.attempt.delivery,
                exc,
                extra={"action": "end_later"},
                exc_info=exc if first and not passes(exc) else None,
            )
            longer = EARLIEST if passes(exc) else min(LATEST, 2 * pause)

            def again() -> None:
                self._on_end(running, end, longer)

            self._timer.call(pause, again, running.attempt.holder)
            return False

    def _release(self, running: RunningAttempt, end: End, *, final: bool = False) -> bool:
        # The slot of a class that is no longer configured must be freed too.
        name = running.attempt.gpu_class
        gpu_class = self._classes.get(name) or GpuClass(name)
        released = self._line.release(gpu_class, running.attempt, end, running.instance, final)
        delivery, number = released.attempt.delivery, released.attempt.number
        self.launch(gpu_class, released.granted)
        if released.state == MOVING:
            logger.warning(
                "%s attempt %s: %s; it moves to a larger class",
                delivery,
                number,
                released.error,
                extra={"action": "escalates"},
            )
            self._finisher.submit(name, delivery)
        elif released.state == "finishing":
            if end.reason == EndReason.SUCCEEDED:  # a container job
                logger.info(
                    "%s attempt %s: its container succeeded",
                    delivery,
                    number,
                    extra={"action": "container_ended"},
                )
            else:
                logger.warning(
                    "%s attempt %s: %s",
                    delivery,
                    number,
                    end.error,
                    extra={"action": "executor_lost"},
                )
            self._finisher.submit(name, delivery)
        elif released.state in BEFORE_SLOT:
            if released.freed:  # else it is told again
                logger.warning(
                    "%s attempt %s: %s; a new attempt follows",
                    delivery,
                    number,
                    released.error or end.error,
                    extra={"action": "try_again"},
                )
            # It is in line again since its class is held.
            if released.state == JobState.WAITING or end.blames or end.avoid:
                self._places.look(name)
            wakeups.wake(self._client, name)
        return released.freed

    def close(self) -> None:
        """Complete the launches under way. The next watcher takes over the postponed ones."""
        self._timer.close()
        self._pool.shutdown(wait=True, cancel_futures=False)


def _left(record: Record, why: Exception) -> None:
    logger.info(
        "%s: launch left to a watcher: %s",
        record["delivery"],
        why,
        extra={"action": "launch_left"},
    )
