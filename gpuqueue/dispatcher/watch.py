"""The watcher: one elected loop that moves what is due, stops what must stop, and repairs what a
crash left behind.

Never here: the ordinary hand-over of a slot; that is the dispatcher's, by event. All that the
leader does is safe when another believes to lead at the same time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.repair import Reconciler
from gpuqueue.dispatcher.slots import REFUSED, Dispatcher
from gpuqueue.errors import LayoutMismatch
from gpuqueue.launchers.base import Launcher, LauncherUnavailable
from gpuqueue.model.attempt import Attempt
from gpuqueue.store import wakeups
from gpuqueue.store.client import Redis, RedisError
from gpuqueue.store.lease import Lease
from gpuqueue.store.reader import Todo

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clocks:
    """The watcher's clocks, in seconds; see settings.py for the reasons."""

    tick: float = 1.0
    relist: float = 2.0
    repair: float = 5.0
    grace: float = 10.0


@dataclass
class Watcher:
    """Runs :meth:`cycle` in a thread until stopped.

    ``waiting`` is a client whose timeout exceeds the tick. One that may not lead only says that its
    dispatcher is there.
    """

    dispatcher: Dispatcher
    launcher: Launcher
    lease: Lease
    waiting: Redis
    clocks: Clocks = field(default_factory=Clocks)
    may_lead: bool = True
    leads: bool = False
    blind: bool = False
    """It leads, and what runs cannot be seen."""
    turned: float = 0.0
    """When its last good turn ended, in Unix seconds; 0: it had none yet."""
    began: float = 0.0
    """When its latest turn began, by ``time.monotonic``."""
    succeeded: float = 0.0
    """When its last good turn ended, by ``time.monotonic``; 0: it had none yet."""
    trouble: str = ""
    """Why its latest turn failed; empty: it did not."""
    check_layout: Callable[[], None] = lambda: None
    """Raises :class:`LayoutMismatch` when the state is no longer ours to work on."""
    leave: Callable[[], None] = lambda: None
    """Ends this dispatcher then."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuqueue-watch", daemon=True)
        self._sent: dict[str, dict[Attempt, str]] = {}
        self.reconciler = Reconciler(
            self.dispatcher, self.launcher, self.clocks.repair, self.clocks.relist
        )
        self._relist_at = 0.0
        self._refresh_at = 0.0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def alive(self) -> bool:
        """Whether the loop goes on, or was told to end."""
        return self._thread.is_alive() or self._stop.is_set()

    def stop(self) -> None:
        """End the loop and let another lead."""
        self._stop.set()
        try:
            for name in self.dispatcher.classes:
                wakeups.wake(self.dispatcher.client, name)
            self._thread.join(self.clocks.tick + 5)
            self.lease.leave()
        except RedisError as exc:
            logger.warning("not signed off: %s", exc, extra={"action": "leave_failed"})

    def _run(self) -> None:
        while not self._stop.is_set():
            self.began = time.monotonic()
            try:
                sleep = self.cycle()
                self.trouble, self.succeeded, self.turned = (
                    "",
                    time.monotonic(),
                    self.dispatcher.line.clock(),
                )
                self._wait(sleep)
            except LayoutMismatch as exc:
                logger.error("%s", exc, extra={"action": "layout_mismatch"})
                self.leave()
                return
            except RedisError as exc:
                self.trouble = f"Redis: {exc}"
                logger.warning("watcher: Redis: %s", exc, extra={"action": "watch_unavailable"})
                self._stop.wait(self.clocks.tick)
            except Exception as exc:
                self.trouble = f"{type(exc).__name__}: {exc}"
                logger.exception("watcher: cycle failed", extra={"action": "watch_failed"})
                self._stop.wait(self.clocks.tick)

    def cycle(self) -> float:
        """One turn; answers how long to sleep at most, in seconds."""
        # 1. Say that this dispatcher is there; lead, or leave it to the one that does.
        classes = list(self.dispatcher.classes.values())
        self.check_layout()
        self.lease.announce(classes)
        self._set_leads(self.may_lead and self.lease.hold())
        if not self.leads:
            return self.clocks.tick
        now = self.dispatcher.line.clock()
        soonest = now + self.clocks.tick
        closed: set[str] = set()
        for gpu_class in [*classes, GpuClass(REFUSED)]:
            # 2. Move what is due: into line, out of it, past its deadline.
            moved, due = self.dispatcher.line.tick(gpu_class.name)
            # 3. Start whatever can start.
            self.dispatcher.launch(gpu_class, self.dispatcher.line.admit(gpu_class))
            # 4. Stop what must stop, take up what somebody left half-done.
            todo = self.dispatcher.reader.todo(gpu_class.name, now)
            closed |= set() if todo.opened else {gpu_class.name}
            self._stop_attempts(gpu_class, todo, now)
            self._take_up(gpu_class, todo, now)
            soonest = min(soonest, now if moved else soonest, due or soonest)
        # 5. Compare the holders with what really runs. A class that Redis knows nothing of (it is
        # new, or all is lost) opens only then: a job must not start beside one that merely is not
        # known.
        if closed or now >= self._relist_at:
            self._relist_at = now + self.clocks.relist
            try:
                self.reconciler.run(now, adopt_at_once=closed)
            except LauncherUnavailable as exc:
                self._say_blind(exc)
            else:
                self.blind = False
                for name in closed:
                    self.dispatcher.line.open(name)
                    soonest = now
        # 6. Note what attempts wait for, and give up those whose clock ran out.
        self.launcher.check(now)
        # 7. Keep the states of long jobs from expiring.
        refresh = self.dispatcher.states.refresh_seconds
        if refresh and now >= self._refresh_at:
            self._refresh_at = now + refresh
            self.dispatcher.refresh_states()
        # 8. Sleep until something is due, or somebody wakes us.
        return soonest - self.dispatcher.line.clock()

    def _set_leads(self, leads: bool) -> None:
        if leads and not self.leads:
            logger.info("this watcher leads", extra={"action": "leads"})
            self._relist_at = 0.0
            self._sent.clear()
        if leads != self.leads:
            self.launcher.lead(leads)
            self.blind = False
        self.leads = leads

    def _say_blind(self, why: Exception) -> None:
        if not self.blind:  # once: this may go on for an hour
            logger.warning(
                "what runs cannot be seen, nothing is concluded: %s",
                why,
                extra={"action": "watch_blind"},
            )
        self.blind = True

    def _wait(self, seconds: float) -> None:
        if not self.leads:
            self._stop.wait(min(seconds, self.clocks.tick))  # the leader alone is woken
        elif seconds > 0:
            wakeups.wait(self.waiting, self.dispatcher.classes, seconds)

    # -- stopping ----------------------------------------------------------------------------------

    def _stop_attempts(self, gpu_class: GpuClass, todo: Todo, now: float) -> None:
        before = self._sent.get(gpu_class.name, {})
        sent = self._sent[gpu_class.name] = {
            attempt: before[attempt] for attempt, _ in todo.stopping if attempt in before
        }
        for attempt, since in todo.stopping:
            delivery, number = attempt.delivery, attempt.number
            record = self.dispatcher.reader.record(gpu_class.name, delivery)
            instance = (
                record.get("instance") if record and record.get("attempt") == number else None
            )
            if record is None or instance is None or record.get("owner", "") != self.launcher.owner:
                # its process is not known yet: a claim is refused, and reconcile frees the slot; or
                # it is another's
                continue
            # A hard limit kills at once, as Celery's does; a cancelled job may tidy up first.
            overdue = record.get("timed_out") is not None or now - since > self.clocks.grace
            signal = "KILL" if overdue else record.get("cancel", "TERM")
            if sent.get(attempt) != signal:
                logger.info(
                    "%s attempt %s: %s", delivery, number, signal, extra={"action": "stopping"}
                )
                try:
                    self.launcher.stop(instance, signal)
                except LauncherUnavailable as exc:
                    # The others would wait for the same server, and the lease does not: all of them
                    # in the next turn.
                    logger.warning(
                        "%s: not stopped yet: %s", delivery, exc, extra={"action": "stop_later"}
                    )
                    return
                sent[attempt] = signal

    # -- repair ------------------------------------------------------------------------------------

    def _take_up(self, gpu_class: GpuClass, todo: Todo, now: float) -> None:
        stale = now - self.clocks.repair
        for delivery, since in todo.accepted:
            if since <= stale:
                logger.warning(
                    "%s was accepted and not in line; enqueued",
                    delivery,
                    extra={"action": "repair_accepted"},
                )
                self.dispatcher.enqueue(gpu_class, delivery)
        for delivery, _ in todo.finishing:
            self.dispatcher.finisher.submit(gpu_class.name, delivery)
