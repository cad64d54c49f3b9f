"""Stop attempts that must not go on: cancelled, or past a deadline."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from gpuqueue.launchers.base import Launcher, LauncherUnavailable
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.states import JobState
from gpuqueue.store.reader import Reader

logger = logging.getLogger(__name__)


@dataclass
class Stopper:
    """Sends each attempt its signal once, and KILL if it outlives the grace period. For one thread.

    ``grace`` is in seconds.
    """

    reader: Reader
    launcher: Launcher
    grace: float
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
        for attempt, since in stopping:
            record = self.reader.record(gpu_class, attempt.delivery)
            if record is None or record.get("attempt") != attempt.number:
                continue  # without its record no instance is known; repair frees the slot
            instance = record.get("instance")
            if instance is None or record.get("owner", "") != self.launcher.owner:
                # Not launched yet: its claim is refused, and repair frees the slot. Or it belongs
                # to another cluster.
                continue
            # A hard limit kills at once, as in Celery; a cancelled job may clean up first.
            # A process that has reported and did not end has had its grace.
            late = record.get("timed_out") is not None or record["state"] == JobState.ENDED
            overdue = late or now - since > self.grace
            signal = "KILL" if overdue else record.get("cancel", "TERM")
            if sent.get(attempt) == (instance, signal):
                continue
            logger.info(
                "%s attempt %s: %s",
                attempt.delivery,
                attempt.number,
                signal,
                extra={"action": "stopping"},
            )
            try:
                self.launcher.stop(instance, signal)
            except LauncherUnavailable as exc:
                # The other attempts would wait for the same server, and the lease would run out:
                # the next cycle retries all.
                logger.warning(
                    "%s: not stopped yet: %s",
                    attempt.delivery,
                    exc,
                    extra={"action": "stop_later"},
                )
                return
            sent[attempt] = (instance, signal)
