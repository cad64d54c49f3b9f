"""Attempts that run without a slot: adopted or stopped."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.identity import Standing, standing
from gpuqueue.dispatcher.suspects import Suspects
from gpuqueue.launchers.base import Launcher
from gpuqueue.model.attempt import LiveAttempt
from gpuqueue.model.record import Record, goes_on
from gpuqueue.store import wakeups
from gpuqueue.store.client import Redis
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader

logger = logging.getLogger(__name__)
#: How many times as long as usual to look for the end of an attempt that holds the slot of a later
#: one.
LOOKS = 4


@dataclass
class Strays:
    """Settles attempts that run without a slot. For one thread."""

    client: Redis
    line: Line
    reader: Reader
    classes: Mapping[str, GpuClass]
    launcher: Launcher
    suspects: Suspects
    abandoned_after: float
    """Seconds until such an attempt counts as abandoned."""
    unsettled: set[str] = field(default_factory=set, init=False)
    """Closed classes that must stay closed: an attempt was left without its slot."""

    def settle(
        self,
        each: LiveAttempt,
        tokens: Collection[str],
        adopt_at_once: Collection[str],
        has_slot: bool = False,
    ) -> None:
        """Adopt an attempt if Redis has lost it, stop it if its job goes on without it.

        Args:
            each: an attempt that runs and holds no slot.
            tokens: those of all attempts that run.
            adopt_at_once: the classes in which adoption does not wait.
            has_slot: whether its process holds the slot of an attempt to which it went on. It may
                be listed under an earlier one.
        """
        running = each.running
        attempt, instance = running.attempt, running.instance
        record = self.reader.record(attempt.gpu_class, attempt.delivery)
        match standing(record, each, tokens):
            case Standing.CURRENT:
                return  # its slot is written by now
            case Standing.UNKNOWN | Standing.OVER if has_slot:
                return
            case _ if has_slot and self.launcher.owner:
                return  # a pod is always listed under its first attempt
            case (Standing.UNKNOWN | Standing.OVER) as stands if goes_on(each.record):
                # It may run another job by now, and says so itself (runner/pod.py).
                if not self.suspects.for_long(instance, LOOKS * self.abandoned_after):
                    if attempt.gpu_class in adopt_at_once:
                        self.unsettled.add(attempt.gpu_class)
                elif stands is Standing.UNKNOWN:
                    self._adopt(each)
                else:
                    self._stop(each)
            case Standing.UNKNOWN:
                at_once = attempt.gpu_class in adopt_at_once
                if at_once or self.suspects.for_long(instance, self.abandoned_after):
                    self._adopt(each)
            case Standing.AHEAD:
                if self._adopt(each):
                    return
                # The holder in its way may have ended, which takes a moment to see.
                closed = attempt.gpu_class in adopt_at_once
                if closed and not self.suspects.for_long(instance, self.abandoned_after):
                    self.unsettled.add(attempt.gpu_class)
                else:
                    self._stop(each)
            case Standing.SUCCESSOR:
                earlier = (record or {}).get("instance")
                if not earlier or self.launcher.end_of(earlier) is not None:
                    if not self._adopt(each, instead_of=(record or {}).get("token", "")):
                        self._stop(each)
                elif self.suspects.for_long(instance, LOOKS * self.abandoned_after):
                    self._stop(each)
            case Standing.STRAY:
                self._stop(each)
            case Standing.OVER:
                if self.suspects.for_long(instance, self.abandoned_after):
                    self._stop(each)

    def _adopt(self, each: LiveAttempt, instead_of: str = "") -> bool:
        attempt = each.running.attempt
        adopted: Record = {**each.record, "instance": each.running.instance}
        slots = self.classes[attempt.gpu_class].slots(each.record["isolation"])
        if not self.line.adopt(attempt.gpu_class, adopted, slots, instead_of):
            return False
        logger.warning(
            "%s: runs, and Redis has lost that; adopted",
            attempt.holder,
            extra={"action": "repair_adopted"},
        )
        wakeups.wake(self.client, attempt.gpu_class)
        return True

    def _stop(self, each: LiveAttempt) -> None:
        self.launcher.stop(each.running.instance, "KILL")
        logger.warning(
            "%s: runs without a slot; stopped",
            each.running.attempt.holder,
            extra={"action": "repair_stopped"},
        )
