"""Repair the state from what really runs: slots without a process, and processes without a slot
(invariant 6).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.slots import Slots
from gpuqueue.launchers.base import Launcher
from gpuqueue.model.attempt import Attempt, LiveAttempt, RunningAttempt
from gpuqueue.model.ends import explain
from gpuqueue.model.record import Record
from gpuqueue.store import wakeups
from gpuqueue.store.client import Redis
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader

logger = logging.getLogger(__name__)


@dataclass
class Repair:
    """Compares the holders of slots with what runs. A difference must persist for a while before it
    is acted on. For one thread.
    """

    client: Redis
    line: Line
    reader: Reader
    classes: Mapping[str, GpuClass]
    launcher: Launcher
    slots: Slots
    abandoned_after: float
    """Seconds until an unfinished launch, or a process without a slot, counts as abandoned."""
    relist: float
    """Seconds between two runs. A dispatcher has half of it to report how its process ended."""
    _suspects: dict[str, float] = field(default_factory=dict)

    def run(
        self, now: float, adopt_at_once: Collection[str] = (), unserved: Collection[str] = ()
    ) -> None:
        """Compare once, and repair each difference that has persisted; in the classes of
        ``adopt_at_once`` adopt without waiting.

        In the classes of ``unserved``, which no dispatcher serves, it only frees the slots of
        attempts that have ended: a launch is left to the next dispatcher of the class.

        Raises :class:`LauncherUnavailable` if it is unknown what runs; then nothing is repaired.
        """
        suspects, self._suspects = self._suspects, {}
        live = {each.running.attempt: each for each in self.launcher.list()}
        held: set[Attempt] = set()
        for name in (*self.classes, *unserved):
            for attempt, since, record in self._holders(name):
                held.add(attempt)
                if record is not None and record.get("owner", "") != self.launcher.owner:
                    continue  # another cluster's watcher looks after it
                instance = self._instance(record, attempt, live.get(attempt))
                if instance:
                    self._with_process(RunningAttempt(attempt, instance), suspects, now)
                elif now - since >= self.abandoned_after and (
                    name in self.classes or not _is_wanted(record, attempt)
                ):
                    self._without_process(attempt, record)
        for attempt, each in live.items():
            if attempt in held or attempt.gpu_class not in self.classes:
                continue  # an attempt of another class belongs to its dispatchers
            adopted = attempt.gpu_class in adopt_at_once and self._adopt(each)
            instance = each.running.instance
            if not adopted and self._for_long(suspects, instance, now, self.abandoned_after):
                self._without_holder(each)

    def _holders(self, gpu_class: str) -> Iterator[tuple[Attempt, float, Record | None]]:
        """Yield the holders of a class with their age in Unix seconds and their record."""
        holders = self.reader.holders(gpu_class)
        records = self.reader.records(gpu_class, (attempt.delivery for attempt, _ in holders))
        known = {record["delivery"]: record for record in records}
        for attempt, since in holders:
            yield attempt, since, known.get(attempt.delivery)

    def _for_long(self, suspects: dict[str, float], name: str, now: float, seconds: float) -> bool:
        self._suspects[name] = suspects.get(name, now)
        return now - self._suspects[name] >= seconds

    @staticmethod
    def _instance(record: Record | None, attempt: Attempt, live: LiveAttempt | None) -> str | None:
        known = (
            record.get("instance") if record and record.get("attempt") == attempt.number else None
        )
        return known or (live.running.instance if live else None)

    def _with_process(
        self, running: RunningAttempt, suspects: dict[str, float], now: float
    ) -> None:
        end = self.launcher.end_of(running.instance)
        if end is None:
            self.launcher.watch(running)
            return
        holder = running.attempt.holder
        if self._for_long(suspects, holder, now, self.relist / 2):
            logger.warning(
                "%s: gone without a reported end: %s",
                holder,
                end.error,
                extra={"action": "repair_gone"},
            )
            self.slots.on_end(running, end)

    def _without_process(self, attempt: Attempt, record: Record | None) -> None:
        """Nothing runs, and the launch was never confirmed: launch it (again), or free the slot if
        the job is no longer wanted.
        """
        if _is_wanted(record, attempt):
            found = self.line.relaunch(attempt, self.abandoned_after)
            if found:
                logger.warning(
                    "%s attempt %s: launched again",
                    attempt.delivery,
                    attempt.number,
                    extra={"action": "repair_launch"},
                )
                self.slots.relaunch(found)
            return
        current = record is not None and record.get("attempt") == attempt.number
        if record is not None and current and not self.launcher.abandon(record):
            return  # it was launched after all: its end will be reported
        logger.warning(
            "%s attempt %s: slot without a process freed",
            attempt.delivery,
            attempt.number,
            extra={"action": "repair_freed"},
        )
        self.slots.on_end(RunningAttempt(attempt, ""), explain(None))

    def _adopt(self, each: LiveAttempt) -> bool:
        attempt = each.running.attempt
        adopted: Record = {**each.record, "instance": each.running.instance}
        if attempt.gpu_class not in self.classes or not self.line.adopt(attempt.gpu_class, adopted):
            return False
        logger.warning(
            "%s: runs, and is unknown to Redis; adopted",
            attempt.holder,
            extra={"action": "repair_adopted"},
        )
        wakeups.wake(self.client, attempt.gpu_class)
        return True

    def _without_holder(self, each: LiveAttempt) -> None:
        """An attempt runs without a slot: adopt it if Redis has lost it, stop it if its job goes on
        without it.
        """
        if self._adopt(each):
            return
        logger.warning(
            "%s: runs without a slot; stopped",
            each.running.attempt.holder,
            extra={"action": "repair_stopped"},
        )
        self.launcher.stop(each.running.instance, "KILL")


def _is_wanted(record: Record | None, attempt: Attempt) -> bool:
    """Whether a launch that is not confirmed must still happen."""
    return (
        record is not None
        and record.get("attempt") == attempt.number
        and record["state"] == "launching"
        and not record.get("cancel")
    )
