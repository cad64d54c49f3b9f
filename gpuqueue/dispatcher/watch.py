"""The watcher: one elected loop that moves due jobs, stops attempts that must stop, and repairs the
state after a crash.

Never here: the usual hand-over of a slot; :mod:`gpuqueue.dispatcher.slots` does it on the end of an
attempt. Nor who leads: :mod:`gpuqueue.dispatcher.leadership`, in a thread that no slow step delays.
Every step of a leader is safe if another watcher believes that it leads, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.class_turns import ClassTurns
from gpuqueue.dispatcher.class_workers import ClassWorkers
from gpuqueue.dispatcher.job_states import JobStates
from gpuqueue.dispatcher.leadership import Leadership
from gpuqueue.dispatcher.repair import Repair
from gpuqueue.dispatcher.shown import ShownClasses
from gpuqueue.dispatcher.stop import Stopper
from gpuqueue.dispatcher.unserved import Unserved
from gpuqueue.errors import LayoutMismatch
from gpuqueue.launchers.base import BLIND_AFTER, Launcher, LauncherUnavailable
from gpuqueue.model.names import CHORDS
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
#: Seconds between two looks at what executors have told of the application.
LEARNS = 5.0
#: Seconds after which the leader compares its file of tenants with the rules in Redis again.
FOLLOWS = 15.0
#: Seconds between two looks whether another dispatcher shows the class of unlocks.
LOOK = 10.0
#: How long repair rests, in its own time: with 10,000 attempts it takes a second.
REPAIR_RESTS = 4


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
    shown: ShownClasses
    lease: Lease
    leadership: Leadership
    launcher: Launcher
    turns: ClassTurns
    stopper: Stopper
    repair: Repair
    unserved: Unserved
    workers: ClassWorkers
    states: JobStates
    intervals: WatchIntervals
    steps: Steps
    """Those of its parts too, so that one place knows what fails."""
    consumed: Callable[[], Sequence[str]] = tuple
    """Returns the queues whose messages this dispatcher takes."""
    learn: Callable[[], None] = lambda: None
    """Learns what executors have told of the application."""
    note_capacity: Callable[[], None] = lambda: None
    """Notes what the classes have, for the accounts."""
    follow: Callable[[], None] = lambda: None
    """Sets the rules of tenants that the file of this dispatcher has, while it leads."""
    check_layout: Callable[[], None] = lambda: None
    """Raises :class:`LayoutMismatch` if the state has another layout by now."""
    leave: Callable[[], None] = lambda: None
    """Shuts this dispatcher down in that case."""

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
        self._leading = False  # whether the loop does a leader's work
        self._unknown = False  # whether the last repair could not read the state of a class
        self._terms = 0
        self._thread = threading.Thread(target=self._run, name="gpuqueue-watch", daemon=True)
        self._announced: Sequence[str] = ()
        self._spoken = 0
        self._offset = 0.0  # from the monotonic clock to that of Redis
        self._next: dict[str, float] = {}  # step → when it is due, by the monotonic clock

    @property
    def leads(self) -> bool:
        """Whether its dispatcher leads: the loop may still be in the cycle in which it did not."""
        return self.leadership.leads

    @property
    def unseen(self) -> float:
        """The age of the cluster's last good answer in seconds; 0 if it need not see it."""
        return self.launcher.unseen()

    @property
    def blind(self) -> bool:
        """Whether the cluster state is unknown to it, as the leader or since it has resigned."""
        return self._unknown or self.unseen >= BLIND_AFTER

    @property
    def unserved_jobs(self) -> Mapping[str, int]:
        """Class that no dispatcher serves → number of its jobs, as the leader has counted them."""
        return self.unserved.jobs if self.leads else {}

    @property
    def unowned_slots(self) -> Mapping[tuple[str, str], int]:
        """(class, owner) → slots that no live dispatcher looks after, as the leader has counted
        them.
        """
        return self.repair.unowned if self.leads else {}

    @property
    def silent_attempts(self) -> Mapping[tuple[str, str], int]:
        """(class, node) → attempts that hold a slot on a node that does not answer."""
        return self.launcher.silent if self.leads else {}

    @property
    def served_elsewhere(self) -> Mapping[str, str]:
        """Class → the other cluster whose dispatchers alone start its jobs."""
        return self.launcher.elsewhere if self.leads else {}

    @property
    def _heartbeat(self) -> float:
        """Seconds between two signs of life."""
        return max(self.intervals.tick, self.lease.seconds)

    @property
    def heard_within(self) -> float:
        """Seconds since the last heartbeat of a dispatcher that is alive."""
        return HOLDS * self._heartbeat

    def start(self) -> None:
        """Start the threads."""
        self.leadership.start()
        self._thread.start()

    def beat_soon(self) -> None:
        """Send the next heartbeat of each class at once. Thread-safe."""
        self._next.pop("beat", None)

    def alive(self) -> bool:
        """Return whether the loops run, or were stopped on purpose."""
        runs = self._thread.is_alive() and self.leadership.alive()
        return runs or self._stop.is_set()

    def stop(self) -> None:
        """End the loop, and let another watcher lead."""
        self._stop.set()
        self.leadership.changed.set()
        try:
            for name in self.classes:
                wakeups.wake(self.client, name)
            self._thread.join(self.intervals.tick + 5)
            self.leadership.stop()
            self.line.announce(self.shown.values(), 0)
            self.lease.leave()
            self.workers.leave(self._heard_since())
        except RedisError as exc:
            self.leadership.stop()
            logger.warning("not signed off: %s", exc, extra={"action": "leave_failed"})

    def _run(self) -> None:
        woken: str | None = None
        while not self._stop.is_set():
            self.began = time.monotonic()
            try:
                sleep = self.cycle(woken)
                self._tell(self.steps.trouble())
                self.succeeded, self.turned = time.monotonic(), self._now()
                self.leadership.worked()
                woken = self._wait(sleep)
            except LayoutMismatch as exc:
                logger.error("%s", exc, extra={"action": "layout_mismatch"})
                self.leadership.stop()
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
        # 1. Announce this dispatcher. Go on only as the leader.
        if self.consumed() != self._announced:
            self._next.pop("announce", None)
        if self._due("announce", self._heartbeat):
            self.check_layout()
            self._set_clock()
            run("announce", self._announce, None)
        if self._due("learn", LEARNS):
            run("learn", self.learn, None)
        if self._due("shown", LOOK):
            run("shown", self.shown.look, None)
        self._set_leads(self.leadership.leads)
        if not self._leading:
            return tick
        # Before any job of a new class starts.
        if self._due("capacity", self._heartbeat):
            run("bounds", self._set_bounds, None)
            run("capacity", self.note_capacity, None)
        # 2. In each class that has work or is due: move jobs, grant slots, stop attempts, resume
        #    the steps that a crash interrupted.
        if self._due("tenants", FOLLOWS):
            run("tenants", self.follow, None)
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
        # 7. Be the worker of each class to monitors.
        if CHORDS in self.turns.working:
            run("shown", self.shown.use, None)
        if len(self.shown) != self._spoken:
            self._next.pop("speak", None)
            self._spoken = len(self.shown)
        if self._due("speak", self.heard_within):
            run("speak", lambda: self.workers.look(self._heard_since()), None)
        if self._due("beat", self.workers.every):
            run("beat", lambda: self.workers.beat(self.turns.working), None)
        # 8. Sleep until the next class is due, or until one is woken.
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

    def _heard_since(self) -> float:
        """Return since when a dispatcher that is alive has had a heartbeat."""
        return self._now() - self.heard_within

    def _announce(self) -> None:
        consumed = self.consumed()
        self.lease.announce(list(self.shown.values()), self._now(), consumed)
        self._announced = consumed
        self.line.announce(self.shown.values(), self.heard_within)

    def _set_bounds(self) -> None:
        classes = list(self.shown.values())
        self.lease.show(classes)
        self.line.set_bounds(classes, self.lease.group, self.heard_within)

    def _set_leads(self, leads: bool) -> None:
        if leads and not self._leading:
            logger.info("this watcher leads", extra={"action": "leads"})
            self.stopper.forget()
        terms = self.leadership.terms
        if leads and terms != self._terms:  # nothing is known of any class
            self._terms = terms
            self._next.pop("repair", None)
            self._next.pop("capacity", None)
            self.turns.forget()
        if leads != self._leading:
            self.launcher.lead(leads)
            self._unknown = False
            self._next.pop("speak", None)
            if not leads:
                self.workers.be_silent()
        self._leading = leads

    def _repair(self) -> None:
        """Repair, and open the closed classes, unless the cluster state is unknown."""
        closed = set(self.turns.closed)
        began = time.monotonic()
        try:
            self.repair.run(
                self._now(),
                adopt_at_once=closed,
                unserved=self.unserved.jobs,
                working=self.turns.working,
            )
        except LauncherUnavailable as exc:
            if not self._unknown:  # log it once: it may last an hour
                logger.warning(
                    "cluster state unknown; repair paused: %s",
                    exc,
                    extra={"action": "watch_blind"},
                )
            self._unknown = True
            return
        self._unknown = bool(self.launcher.unknown)
        rests = (now := time.monotonic()) + REPAIR_RESTS * (now - began)
        self._next["repair"] = max(self._next.get("repair", 0.0), rests)
        settled = closed - self.repair.unsettled
        for name in settled:
            self.line.open(name)
            self.turns.open(name)

    def _wait(self, seconds: float) -> str | None:
        if not self._leading:
            self.leadership.changed.wait(min(seconds, self.intervals.tick))
            self.leadership.changed.clear()
        elif seconds > 0:
            return wakeups.wait(self.waiting, self.classes, seconds)
        return None
