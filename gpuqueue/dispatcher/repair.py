"""Repair from Redis and what really runs: holders that nothing runs, and what runs without a holder
(invariant 6).
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.slots import Dispatcher
from gpuqueue.launchers.base import Held, Launcher, Live
from gpuqueue.model.ends import explain
from gpuqueue.model.job import Record
from gpuqueue.model.names import holder_name
from gpuqueue.store import wakeups

logger = logging.getLogger(__name__)


class Reconciler:
    """Compares holders and what runs. Whatever looks wrong must look so for a while before it is
    touched.

    Args:
        repair: seconds after which an unfinished launch, or a process without a slot, is taken for
            abandoned.
        relist: seconds between two runs; a dispatcher has half of it to tell how its process ended.
    """

    def __init__(
        self, dispatcher: Dispatcher, launcher: Launcher, repair: float, relist: float
    ) -> None:
        self._dispatcher = dispatcher
        self._launcher = launcher
        self._repair = repair
        self._relist = relist
        self._suspects: dict[str, float] = {}

    def run(self, now: float, adopt_at_once: Collection[str] = ()) -> None:
        """Look once, and repair what has looked wrong for long enough; in some classes adopt
        without waiting.

        Raises :class:`LauncherUnavailable` when what runs cannot be known; nothing is concluded
        then.
        """
        suspects, self._suspects = self._suspects, {}
        live = {
            holder_name(each.record["delivery"], each.record["attempt"]): each
            for each in self._launcher.list()
        }
        held: set[str] = set()
        for gpu_class in self._dispatcher.classes.values():
            holders = self._dispatcher.reader.holders(gpu_class.name)
            records = self._dispatcher.reader.records(
                gpu_class.name, (delivery for delivery, _, _ in holders)
            )
            known = {record["delivery"]: record for record in records}
            for delivery, attempt, since in holders:
                holder = holder_name(delivery, attempt)
                held.add(holder)
                record = known.get(delivery)
                if record is not None and record.get("owner", "") != self._launcher.owner:
                    continue  # another cluster's: its own watcher looks after it
                instance = self._instance(record, attempt, live.get(holder))
                if instance:
                    self._with_process(
                        Held(gpu_class.name, delivery, attempt, instance), suspects, now
                    )
                elif now - since >= self._repair:
                    self._without_process(gpu_class, delivery, attempt, record)
        for holder, each in live.items():
            if holder in held:
                continue
            adopted = each.record["gpu_class"] in adopt_at_once and self._adopt(holder, each)
            if not adopted and self._for_long(suspects, each.instance, now, self._repair):
                self._without_holder(holder, each)

    def _for_long(self, suspects: dict[str, float], name: str, now: float, seconds: float) -> bool:
        self._suspects[name] = suspects.get(name, now)
        return now - self._suspects[name] >= seconds

    @staticmethod
    def _instance(record: Record | None, attempt: int, running: Live | None) -> str | None:
        known = record.get("instance") if record and record.get("attempt") == attempt else None
        return known or (running.instance if running else None)

    def _with_process(self, held: Held, suspects: dict[str, float], now: float) -> None:
        end = self._launcher.end_of(held.instance)
        if end is None:
            self._launcher.watch(held)
            return
        holder = holder_name(held.delivery, held.attempt)
        if self._for_long(suspects, holder, now, self._relist / 2):
            logger.warning(
                "%s: gone, and its end not told: %s",
                holder,
                end.error,
                extra={"action": "repair_gone"},
            )
            self._dispatcher.on_end(held, end)

    def _without_process(
        self, gpu_class: GpuClass, delivery: str, attempt: int, record: Record | None
    ) -> None:
        """Nothing runs, and the launch was never confirmed: launch it (again), or free the slot if
        nobody wants it.
        """
        wanted = (
            record is not None
            and record["state"] == "launching"
            and record.get("attempt") == attempt
            and not record.get("cancel")
        )
        if wanted:
            found = self._dispatcher.line.relaunch(gpu_class.name, delivery, attempt, self._repair)
            if found:
                logger.warning(
                    "%s attempt %s: launched again",
                    delivery,
                    attempt,
                    extra={"action": "repair_launch"},
                )
                self._dispatcher.relaunch(found)
            return
        if (
            record is not None
            and record.get("attempt") == attempt
            and not self._launcher.abandon(record)
        ):
            return  # it was launched after all: its end is waited for
        logger.warning(
            "%s attempt %s: slot without a process freed",
            delivery,
            attempt,
            extra={"action": "repair_freed"},
        )
        self._dispatcher.on_end(Held(gpu_class.name, delivery, attempt, ""), explain(None))

    def _adopt(self, holder: str, each: Live) -> bool:
        gpu_class = each.record["gpu_class"]
        adopted: Record = {**each.record, "instance": each.instance}
        if gpu_class not in self._dispatcher.classes or not self._dispatcher.line.adopt(
            gpu_class, adopted
        ):
            return False
        logger.warning(
            "%s: runs, and Redis did not know it; adopted",
            holder,
            extra={"action": "repair_adopted"},
        )
        wakeups.wake(self._dispatcher.client, gpu_class)
        return True

    def _without_holder(self, holder: str, each: Live) -> None:
        """Something runs without a slot: adopt it when Redis has lost it, stop it when its job goes
        on without it.
        """
        if self._adopt(holder, each):
            return
        logger.warning(
            "%s: runs without a slot; stopped", holder, extra={"action": "repair_stopped"}
        )
        self._launcher.stop(each.instance, "KILL")
