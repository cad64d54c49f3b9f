"""The watcher: one elected loop that moves due jobs, stops attempts that must stop, and repairs the
state after a crash.

Never here: the usual hand-over of a slot; :mod:`gpuqueue.dispatcher.slots` does it on the end of an
attempt. Every step of a leader is safe if another watcher believes that it leads, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.dispatcher.job_states import JobStates
from gpuqueue.dispatcher.repair import Repair
from gpuqueue.dispatcher.slots import Slots
from gpuqueue.dispatcher.stop import Stopper
from gpuqueue.dispatcher.unserved import Unserved
from gpuqueue.errors import LayoutMismatch
from gpuqueue.launchers.base import Launcher, LauncherUnavailable
from gpuqueue.model.names import REFUSED
from gpuqueue.store import wakeups
from gpuqueue.store.client import Redis, RedisError
from gpuqueue.store.clock import redis_time
from gpuqueue.store.lease import Lease
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader, Todo

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchIntervals:
    """The watcher's intervals in seconds; settings/dispatcher.py has the reasons."""

    tick: float = 1.0
    relist: float = 2.0
    repair: float = 5.0


@dataclass
class Watcher:
    """Runs :meth:`cycle` in a thread until stopped."""

    client: Redis
    waiting: Redis
    """A client whose timeout exceeds the tick."""
    line: Line
    reader: Reader
    classes: Mapping[str, GpuClass]
    lease: Lease
    launcher: Launcher
    slots: Slots
    finisher: Finisher
    stopper: Stopper
    repair: Repair
    unserved: Unserved
    states: JobStates
    intervals: WatchIntervals
    may_lead: bool = True
    """False: it only announces its dispatcher."""
    check_layout: Callable[[], None] = lambda: None
    """Raises :class:`LayoutMismatch` if the state has another layout by now."""
    leave: Callable[[], None] = lambda: None
    """Shuts this dispatcher down in that case."""

    leads: bool = field(default=False, init=False)
    blind: bool = field(default=False, init=False)
    """It leads, and the cluster state is unknown."""
    turned: float = field(default=0.0, init=False)
    """End of its last successful cycle in Unix seconds; 0: none yet."""
    began: float = field(default=0.0, init=False)
    """Start of its latest cycle by ``time.monotonic``."""
    succeeded: float = field(default=0.0, init=False)
    """End of its last successful cycle by ``time.monotonic``; 0: none yet."""
    trouble: str = field(default="", init=False)
    """Why its latest cycle failed; empty if it did not."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuqueue-watch", daemon=True)
        self._relist_at = self._now = 0.0

    @property
    def unserved_jobs(self) -> Mapping[str, int]:
        """Class that no dispatcher serves → number of its jobs, as the leader has counted them."""
        return self.unserved.jobs if self.leads else {}

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def alive(self) -> bool:
        """Return whether the loop runs, or was stopped on purpose."""
        return self._thread.is_alive() or self._stop.is_set()

    def stop(self) -> None:
        """End the loop, and let another watcher lead."""
        self._stop.set()
        try:
            for name in self.classes:
                wakeups.wake(self.client, name)
            self._thread.join(self.intervals.tick + 5)
            self.lease.leave()
        except RedisError as exc:
            logger.warning("not signed off: %s", exc, extra={"action": "leave_failed"})

    def _run(self) -> None:
        while not self._stop.is_set():
            self.began = time.monotonic()
            try:
                sleep = self.cycle()
                self.trouble = ""
                self.succeeded, self.turned = time.monotonic(), self._now
                self._wait(sleep)
            except LayoutMismatch as exc:
                logger.error("%s", exc, extra={"action": "layout_mismatch"})
                self.leave()
                return
            except RedisError as exc:
                self.trouble = f"Redis: {exc}"
                logger.warning("watcher: Redis: %s", exc, extra={"action": "watch_unavailable"})
                self._stop.wait(self.intervals.tick)
            except Exception as exc:
                self.trouble = f"{type(exc).__name__}: {exc}"
                logger.exception("watcher: cycle failed", extra={"action": "watch_failed"})
                self._stop.wait(self.intervals.tick)

    def cycle(self) -> float:
        """Run one cycle; return how long to sleep at most, in seconds."""
        # 1. Announce this dispatcher. Lead, unless another watcher does.
        self.check_layout()
        now = self._now = redis_time(self.client)
        began = time.monotonic()
        self.lease.announce(list(self.classes.values()), now)
        self._set_leads(self.may_lead and self.lease.hold())
        if not self.leads:
            return self.intervals.tick
        soonest, closed = now + self.intervals.tick, set()
        for gpu_class in [*self.classes.values(), GpuClass(REFUSED)]:
            # 2. Move due jobs: into line, out of it, past a deadline.
            moved, due = self.line.tick(gpu_class.name)
            # 3. Grant free slots.
            self.slots.grant(gpu_class)
            # 4. Stop attempts that must stop; resume the steps that a crash interrupted.
            todo = self.reader.todo(gpu_class.name, now)
            self.stopper.stop(gpu_class.name, todo.stopping, now)
            self._resume(gpu_class, todo, now)
            if not todo.opened:
                closed.add(gpu_class.name)
            soonest = min(soonest, now if moved else soonest, due or soonest)
        # 5. Compare the holders of slots with what runs. This opens a class that Redis does not
        #    know (a new class, or all data is lost): no job may start beside an unknown attempt.
        #    Look after classes that no dispatcher serves any more.
        if closed or now >= self._relist_at:
            self._relist_at = now + self.intervals.relist
            self.unserved.look_after(now)
            if self._repaired(now, closed) and closed:
                soonest = now
        # 6. Record what attempts wait for, and give up those that exceed a limit.
        self.launcher.check(now)
        # 7. Keep the states of long jobs from expiring.
        self.states.refresh_if_due(now)
        # 8. Sleep until the next job is due, or until woken.
        return soonest - now - (time.monotonic() - began)

    def _set_leads(self, leads: bool) -> None:
        if leads and not self.leads:
            logger.info("this watcher leads", extra={"action": "leads"})
            self._relist_at = 0.0
            self.stopper.forget()
        if leads != self.leads:
            self.launcher.lead(leads)
            self.blind = False
        self.leads = leads

    def _resume(self, gpu_class: GpuClass, todo: Todo, now: float) -> None:
        for delivery, since in todo.accepted:
            if since <= now - self.intervals.repair:
                logger.warning(
                    "%s was accepted and not in line; enqueued",
                    delivery,
                    extra={"action": "repair_accepted"},
                )
                self.slots.enqueue(gpu_class, delivery)
        for delivery, _ in todo.finishing:
            self.finisher.submit(gpu_class.name, delivery)

    def _repaired(self, now: float, closed: set[str]) -> bool:
        """Repair, and open the closed classes; return False if the cluster state is unknown."""
        try:
            self.repair.run(now, adopt_at_once=closed, unserved=self.unserved.jobs)
        except LauncherUnavailable as exc:
            if not self.blind:  # log it once: it may last an hour
                logger.warning(
                    "cluster state unknown; repair paused: %s",
                    exc,
                    extra={"action": "watch_blind"},
                )
            self.blind = True
            return False
        self.blind = False
        for name in closed:
            self.line.open(name)
        return True

    def _wait(self, seconds: float) -> None:
        if not self.leads:
            self._stop.wait(min(seconds, self.intervals.tick))  # only the leader is woken
        elif seconds > 0:
            wakeups.wait(self.waiting, self.classes, seconds)
