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

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.class_turns import ClassTurns
from gpuqueue.dispatcher.job_states import JobStates
from gpuqueue.dispatcher.repair import Repair
from gpuqueue.dispatcher.stop import Stopper
from gpuqueue.dispatcher.unserved import Unserved
from gpuqueue.errors import LayoutMismatch
from gpuqueue.launchers.base import Launcher, LauncherUnavailable
from gpuqueue.steps import Steps
from gpuqueue.store import wakeups
from gpuqueue.store.client import Redis, RedisError
from gpuqueue.store.clock import redis_time
from gpuqueue.store.lease import Lease
from gpuqueue.store.line import Line
from gpuqueue.store.passing import passes

logger = logging.getLogger(__name__)
#: A change of the clock of Redis against the monotonic one that counts as a jump, in seconds.
JUMP = 1.0
#: Heartbeats for which the terms of a dispatcher hold that has had no further one.
HOLDS = 3


def concerns_all(exc: BaseException) -> bool:
    """Whether an error concerns all steps alike: Redis is away, or has another layout."""
    lost = (redis.ConnectionError, redis.TimeoutError)
    return isinstance(exc, (*lost, LayoutMismatch)) or (isinstance(exc, RedisError) and passes(exc))


@dataclass(frozen=True, slots=True)
class WatchIntervals:
    """The watcher's intervals in seconds; settings/dispatcher.py has the reasons."""

    tick: float = 1.0
    relist: float = 2.0


@dataclass
class Watcher:
    """Runs :meth:`cycle` in a thread until stopped."""

    client: Redis
    waiting: Redis
    """A client whose timeout exceeds the tick."""
    line: Line
    classes: Mapping[str, GpuClass]
    lease: Lease
    launcher: Launcher
    turns: ClassTurns
    stopper: Stopper
    repair: Repair
    unserved: Unserved
    states: JobStates
    intervals: WatchIntervals
    steps: Steps
    """Those of its parts too, so that one place knows what fails."""
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
    """Why its latest cycle failed, or which step has failed for long; empty if all work."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuqueue-watch", daemon=True)
        self._offset = 0.0  # from the monotonic clock to that of Redis
        self._next: dict[str, float] = {}  # step → when it is due, by the monotonic clock

    @property
    def unserved_jobs(self) -> Mapping[str, int]:
        """Class that no dispatcher serves → number of its jobs, as the leader has counted them."""
        return self.unserved.jobs if self.leads else {}

    @property
    def _heartbeat(self) -> float:
        """Seconds between two signs of life."""
        return max(self.intervals.tick, self.lease.seconds)

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
            self.line.announce(self.classes.values(), 0)
            self.lease.leave()
        except RedisError as exc:
            logger.warning("not signed off: %s", exc, extra={"action": "leave_failed"})

    def _run(self) -> None:
        woken: str | None = None
        while not self._stop.is_set():
            self.began = time.monotonic()
            try:
                sleep = self.cycle(woken)
                self._tell(self.steps.trouble())
                self.succeeded, self.turned = time.monotonic(), self._now()
                woken = self._wait(sleep)
            except LayoutMismatch as exc:
                logger.error("%s", exc, extra={"action": "layout_mismatch"})
                self.leave()
                return
            except Exception as exc:
                woken = None
                self._next.clear()
                kind = "Redis" if isinstance(exc, RedisError) else type(exc).__name__
                self._tell(f"{kind}: {exc}", None if kind == "Redis" else exc)
                self._stop.wait(self.intervals.tick)

    def _tell(self, trouble: str, exc: Exception | None = None) -> None:
        """Note why the loop does not work, and log it once."""
        if trouble and trouble != self.trouble:
            logger.warning(
                "watcher: %s", trouble, extra={"action": "watch_unavailable"}, exc_info=exc
            )
        elif self.trouble and not trouble:
            logger.info("watcher: works again", extra={"action": "watch_available"})
        self.trouble = trouble

    def cycle(self, woken: str | None = None) -> float:
        """Run one cycle: each step that is due, and the turn of a class that was ``woken``. Return
        how long to sleep at most, in seconds.
        """
        run, tick = self.steps.run, self.intervals.tick
        # 1. Announce this dispatcher. Lead, unless another watcher does.
        if self._due("announce", self._heartbeat):
            self.check_layout()
            self._set_clock()
            run("announce", self._announce, None)
        if self._due("lease", self.lease.seconds / 3 if self.leads else tick):
            self._set_leads(self.may_lead and self.lease.hold())
        if not self.leads:
            return tick
        # 2. In each class that has work or is due: move jobs, grant slots, stop attempts, resume
        #    the steps that a crash interrupted.
        self.turns.take(self._now(), woken)
        # 3. Look after classes that no dispatcher serves any more. To find one is not urgent.
        every = self.intervals.relist if self.unserved.jobs else self.unserved.silence / 3
        if self._due("unserved", max(every, self.intervals.relist)):
            run("unserved", lambda: self.unserved.look_after(self._now()), None)
        # 4. Compare the holders of slots with what runs. This opens a class that Redis does not
        #    know (a new class, or all data is lost): no job may start beside an unknown attempt.
        if self._due("repair", self.intervals.relist) or self.turns.closed:
            run("repair", self._repair, None)
        # 5. Record what attempts wait for, and give up those that exceed a limit.
        if self._due("launcher", tick):
            run("launcher", lambda: self.launcher.check(self._now()), None)
        # 6. Keep the states of long jobs from expiring.
        run("states", self.states.refresh_if_due, None)
        # 7. Sleep until the next class is due, or until one is woken.
        now = self._now()
        return self.turns.next(now) - now

    def _due(self, step: str, every: float) -> bool:
        """Return whether a step is due, which it is ``every`` so many seconds."""
        now = time.monotonic()
        if now < self._next.get(step, 0.0):
            return False
        self._next[step] = now + every
        return True

    def _set_clock(self) -> None:
        """Follow the clock of Redis. After a jump, no time that was planned before it is right."""
        offset = redis_time(self.client) - time.monotonic()
        if abs(offset - self._offset) > JUMP:
            self.turns.forget()
        self._offset = offset

    def _now(self) -> float:
        return self._offset + time.monotonic()

    def _announce(self) -> None:
        self.lease.announce(list(self.classes.values()), self._now())
        self.line.announce(self.classes.values(), HOLDS * self._heartbeat)

    def _set_leads(self, leads: bool) -> None:
        if leads and not self.leads:
            logger.info("this watcher leads", extra={"action": "leads"})
            self.stopper.forget()
        if self.lease.taken:  # nothing is known of any class
            self._next.pop("repair", None)
            self.turns.forget()
        if leads != self.leads:
            self.launcher.lead(leads)
            self.blind = False
        self.leads = leads

    def _repair(self) -> None:
        """Repair, and open the closed classes, unless the cluster state is unknown."""
        closed = set(self.turns.closed)
        try:
            self.repair.run(
                self._now(),
                adopt_at_once=closed,
                unserved=self.unserved.jobs,
                working=self.turns.working,
            )
        except LauncherUnavailable as exc:
            if not self.blind:  # log it once: it may last an hour
                logger.warning(
                    "cluster state unknown; repair paused: %s",
                    exc,
                    extra={"action": "watch_blind"},
                )
            self.blind = True
            return
        self.blind = False
        settled = closed - self.repair.unsettled
        for name in settled:
            self.line.open(name)
            self.turns.open(name)

    def _wait(self, seconds: float) -> str | None:
        if not self.leads:
            self._stop.wait(min(seconds, self.intervals.tick))  # only the leader is woken
        elif seconds > 0:
            return wakeups.wait(self.waiting, self.classes, seconds)
        return None
