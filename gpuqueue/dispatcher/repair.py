"""Repair the state from what really runs: slots without a process, and processes without a slot
(invariant 6).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.identity import is_meant, of_record
from gpuqueue.dispatcher.slots import Slots
from gpuqueue.dispatcher.strays import Strays
from gpuqueue.dispatcher.suspects import Suspects
from gpuqueue.launchers.base import Launcher, LauncherUnavailable, StopRefused
from gpuqueue.model.attempt import Attempt, LiveAttempt, RunningAttempt, is_same_instance
from gpuqueue.model.ends import explain
from gpuqueue.model.record import Record
from gpuqueue.steps import Steps
from gpuqueue.store.client import Redis
from gpuqueue.store.line import Line
from gpuqueue.store.owners import Owners
from gpuqueue.store.reader import Reader

logger = logging.getLogger(__name__)
#: How often a launch that stays unconfirmed is repeated, after 1, 2, 4, 8 times the usual seconds.
LAUNCHES = 4


@dataclass
class Repair:
    """Compares the holders of slots with what runs. A difference must persist for a while before it
    is acted on. Each class and each attempt fails by itself. For one thread.
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
    steps: Steps = field(default_factory=Steps)
    suspects: Suspects = field(default_factory=Suspects)

    unowned: Mapping[tuple[str, str], int] = field(default_factory=dict, init=False)
    """(class, owner) → slots that no live dispatcher looks after, as of the last run."""

    def __post_init__(self) -> None:
        self._foreign = False
        self._strays = Strays(
            self.client,
            self.line,
            self.reader,
            self.classes,
            self.launcher,
            self.suspects,
            self.abandoned_after,
        )

    @property
    def unsettled(self) -> set[str]:
        """Closed classes that must stay closed: the last run left an attempt without its slot."""
        return self._strays.unsettled

    def run(
        self,
        now: float,
        adopt_at_once: Collection[str] = (),
        unserved: Collection[str] = (),
        working: Collection[str] | None = None,
    ) -> None:
        """Compare once at ``now``, a time of Redis, and repair each difference that has persisted.
        In the classes of ``adopt_at_once`` adopt without waiting. Only those of ``working`` may
        have holders; None: all may.

        In the classes of ``unserved``, which no dispatcher serves, it only frees the slots of
        attempts that have ended: a launch is left to the next dispatcher of the class. Nothing is
        repaired in a class of which the launcher tells nothing now; if it is closed, it stays so.

        Raises :class:`LauncherUnavailable` if it is unknown what runs; then nothing is repaired.
        """
        self.suspects.begin()
        self._strays.unsettled.clear()
        live = self.launcher.list()
        of_slot: dict[Attempt, list[LiveAttempt]] = defaultdict(list)
        for each in live:
            of_slot[each.running.attempt].append(each)
        runs = {each.running.attempt.gpu_class for each in live}
        held: set[str] = set()
        warm: list[str] = []  # instances that have gone on to another attempt, or wait for one
        read: set[str] = set()
        unknown = self.launcher.unknown
        self._strays.unsettled.update(unknown)
        for name in (*self.classes, *unserved):
            if name in unknown:
                continue
            idle = working is not None and not (name in working or name in runs)
            if idle and name in self.classes:
                continue
            holders = self.steps.run("holders", partial(self._holders, name), None, where=name)
            if holders is None:
                continue  # nothing is known of the class
            read.add(name)
            if name in runs and name not in adopt_at_once:  # else they may run a job by now
                warm += self.reader.waiting_pods(name)
            for slot, since, record in holders:
                own = [each for each in of_slot[slot] if _is_own(record, each)]
                held.update(each.running.instance for each in own)
                if record and record.get("warm_of") and record.get("attempt") == slot.number:
                    warm.append(record.get("instance", ""))
                self._each(slot, self._held, slot, since, record, own, now)
        self._look_for_unowned()
        tokens = {each.running.attempt.token for each in live}
        for each in live:
            attempt, instance = each.running.attempt, each.running.instance
            if instance in held or attempt.gpu_class not in read:
                continue
            has_slot = any(is_same_instance(instance, other) for other in warm)
            if attempt.gpu_class in self.classes:  # else it belongs to its dispatchers
                self._each(attempt, self._strays.settle, each, tokens, adopt_at_once, has_slot)

    def _look_for_unowned(self) -> None:
        foreign, self._foreign = self._foreign, False
        if foreign or self.unowned:
            look = partial(Owners(self.client).unowned, list(self.classes))
            self.unowned = self.steps.run("owners", look, {})

    def _each(self, attempt: Attempt, act: Callable[..., None], *arguments: Any) -> None:
        """Repair one attempt. Raises :class:`LauncherUnavailable`, which concerns all."""

        def repair() -> LauncherUnavailable | None:
            try:
                act(*arguments)
            except LauncherUnavailable as exc:
                return exc
            except StopRefused:
                pass  # the next run
            return None

        if unavailable := self.steps.run("repair", repair, None, job=attempt.holder):
            raise unavailable

    def _held(
        self,
        slot: Attempt,
        since: float,
        record: Record | None,
        own: list[LiveAttempt],
        now: float,
    ) -> None:
        attempt = of_record(record, slot)
        if record is not None and record.get("owner", "") != self.launcher.owner:
            self._foreign = True
            return  # another cluster's watcher looks after it
        instance = self._instance(record, attempt, own)
        if instance:
            self._with_process(RunningAttempt(attempt, instance))
        elif now - since >= self.abandoned_after and (
            attempt.gpu_class in self.classes or not _is_wanted(record, attempt)
        ):
            self._without_process(attempt, record)

    def _holders(self, gpu_class: str) -> list[tuple[Attempt, float, Record | None]]:
        """Return the holders of a class with their age in Unix seconds and their record."""
        holders: list[tuple[Attempt, float]] = []
        for key, name, since in self.reader.holder_names(gpu_class):
            if attempt := Attempt.parse(gpu_class, name):
                holders.append((attempt, since))
            else:
                logger.error(
                    "%r in %s of class %s is no attempt; set aside",
                    name[:100],
                    key,
                    gpu_class,
                    extra={"action": "set_aside"},
                )
                self.line.set_aside(gpu_class, key, name)
        records = self.reader.records(gpu_class, (attempt.delivery for attempt, _ in holders))
        known = {record["delivery"]: record for record in records}
        return [(attempt, since, known.get(attempt.delivery)) for attempt, since in holders]

    def _instance(
        self, record: Record | None, attempt: Attempt, own: list[LiveAttempt]
    ) -> str | None:
        current = record is not None and record.get("attempt") == attempt.number
        known = record.get("instance") if record is not None and current else None
        if known or not own:
            return known
        instance = own[0].running.instance
        if current:  # its launch was not written, or Redis has lost that: a cancel must find it
            self.line.launched(attempt, instance, self.launcher.claim_within)
        return instance

    def _with_process(self, running: RunningAttempt) -> None:
        end = self.launcher.end_of(running.instance)
        if end is None:
            self.launcher.watch(running)
            return
        holder = running.attempt.holder
        if self.suspects.for_long(holder, self.relist / 2):
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
            found = self.line.relaunch(attempt, self.abandoned_after, LAUNCHES)
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


def _is_own(record: Record | None, live: LiveAttempt) -> bool:
    """Whether a live attempt is the one that holds the slot of its name."""
    if record is None or record.get("attempt") != live.running.attempt.number:
        return True
    return is_meant(record, live.running)


def _is_wanted(record: Record | None, attempt: Attempt) -> bool:
    """Whether a launch that is not confirmed must still happen."""
    return (
        record is not None
        and record.get("attempt") == attempt.number
        and record["state"] == "launching"
        and not any(record.get(word) for word in ("cancel", "doomed", "timed_out"))
    )
