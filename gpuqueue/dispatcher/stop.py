"""Stop attempts that must not go on: cancelled, or past a deadline."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from gpuqueue.launchers.base import Launcher, LauncherUnavailable, StopRefused
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.signals import TERM, is_signal
from gpuqueue.model.states import JobState
from gpuqueue.steps import Steps
from gpuqueue.store.reader import Reader

logger = logging.getLogger(__name__)
#: Seconds that a turn sends signals of one class: each may wait for the API. The next turn sends
#: the others.
WITHIN = 5.0
#: In place of a signal: the launcher can stop nothing for now.
_UNAVAILABLE = ("", "")


@dataclass
class Stopper:
    """Sends each attempt its signal once, and KILL if it outlives the grace period. Each attempt
    fails by itself. For one thread.

    ``grace`` is in seconds.
    """

    reader: Reader
    launcher: Launcher
    grace: float
    steps: Steps = field(default_factory=Steps)
    clock: Callable[[], float] = time.monotonic
    _sent: dict[str, dict[Attempt, tuple[str, str]]] = field(default_factory=dict)

    def forget(self) -> None:
        """Send all signals again: another watcher may have led meanwhile."""
        self._sent.clear()

    def stop(self, gpu_class: str, stopping: list[tuple[Attempt, float]], now: float) -> None:
        """Signal the attempts of a class that must stop, each with the time since when."""
        before = self._sent.get(gpu_class, {})
        sent = self._sent[gpu_class] = {
            attempt: before[attempt] for attempt, _ in stopping if attempt in before
        }
        began = self.clock()
        for attempt, since in stopping:
            if self.clock() - began >= WITHIN:
                return
            stop = partial(self._stop, attempt, since, now, sent.get(attempt))
            signalled = self.steps.run("stop", stop, None, job=attempt.holder)
            if signalled == _UNAVAILABLE:
                # The other attempts would wait for the same server: the next turn retries all.
                return
            if signalled is not None:
                sent[attempt] = signalled

    def _stop(
        self, attempt: Attempt, since: float, now: float, sent: tuple[str, str] | None
    ) -> tuple[str, str] | None:
        """Return the instance of an attempt and the signal that it has got by now; None: none."""
        record = self.reader.record(attempt.gpu_class, attempt.delivery)
        if record is None or record.get("attempt") != attempt.number:
            return None  # without its record no instance is known; repair frees the slot
        instance = record.get("instance")
        if instance is None or record.get("owner", "") != self.launcher.owner:
            # Not launched yet: its claim is refused, and repair frees the slot. Or it belongs to
            # another cluster.
            return None
        # A hard limit kills at once, as in Celery; a cancelled job may clean up first.
        # A process that has reported and did not end has had its grace.
        late = record.get("timed_out") is not None or record["state"] == JobState.ENDED
        overdue = late or now - since > self.grace
        signal = "KILL" if overdue else record.get("cancel", TERM)
        if not is_signal(signal):  # from a version that took any text
            signal = TERM
        if sent == (instance, signal):
            return sent
        try:
            self.launcher.stop(instance, signal)
        except LauncherUnavailable as exc:
            logger.warning(
                "%s: not stopped yet: %s", attempt.delivery, exc, extra={"action": "stop_later"}
            )
            return _UNAVAILABLE
        except StopRefused:
            return None  # the next turn
        logger.info(
            "%s attempt %s: %s",
            attempt.delivery,
            attempt.number,
            signal,
            extra={"action": "stopping"},
        )
        return instance, signal
