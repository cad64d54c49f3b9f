"""Who leads: a thread that takes, renews and gives up the lease, beside the watcher's loop.

The lease belongs to a dispatcher that can do the leader's work. A leader resigns if the cluster is
out of its sight, or if its loop makes no progress. A candidate looks at the cluster before it takes
the lease, and one that sees nothing takes it only after it has been free for a while: another
dispatcher may see. If none sees, one of them still leads.

Never here: the leader's work, and conclusions from what is not seen.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from gpuqueue.launchers.base import BLIND_AFTER, Launcher
from gpuqueue.steps import Steps
from gpuqueue.store.client import RedisError
from gpuqueue.store.lease import Lease

logger = logging.getLogger(__name__)
#: Seconds, beyond the loop's sleep, without a good cycle after which a leader resigns. 60: a cycle
#: whose requests each wait for a slow server is still at work.
STALLED = 60.0
#: Seconds for which the lease must have been free until a dispatcher takes it that sees nothing.
BACK_OFF = 5.0
#: The same in turns of a candidate: each of the others must have had one.
BACK_OFF_TURNS = 3
#: Seconds between two looks at whether the leader may go on.
CHECK_EVERY = 1.0


class Leadership:
    """Whether this dispatcher leads.

    Args:
        lease: the lease of its group.
        launcher: tells whether the cluster is in sight.
        tick: the longest sleep of the watcher's loop, in seconds.
        may_lead: False: it never leads.
    """

    def __init__(
        self,
        lease: Lease,
        launcher: Launcher,
        tick: float,
        may_lead: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease = lease
        self._launcher = launcher
        self._stalled_after = STALLED + tick
        self._may_lead = may_lead
        self._clock = clock
        self._renew_every = lease.seconds / 3
        self._try_every = min(tick, self._renew_every)
        self._back_off = max(BACK_OFF, BACK_OFF_TURNS * self._try_every)
        self._worked = clock()
        self._since = 0.0  # when it began to lead
        self._renewed = 0.0
        self._free_since: float | None = None
        self._told = False  # whether the log has why it resigned
        self._steps = Steps()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuqueue-lead", daemon=True)
        self.leads = False
        self.terms = 0
        """How often it has taken the lease: no dispatcher led, or Redis has lost it."""
        self.changed = threading.Event()
        """Set when it begins to lead."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the thread. The lease is left to its owner."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(CHECK_EVERY + 5)

    def worked(self) -> None:
        """Note that the watcher's loop has completed a cycle."""
        self._worked = self._clock()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.turn()
            except RedisError:
                pass  # the watcher's loop meets the same error, and tells it
            except Exception as exc:
                self._steps.failed("lead", exc)
            else:
                self._steps.succeeded("lead")
            wait = min(self._renew_every, CHECK_EVERY) if self.leads else self._try_every
            self._stop.wait(wait)

    def turn(self) -> None:
        """Renew the lease or resign, as the leader; else take the lease if nothing speaks against
        it.
        """
        if self.leads:
            if unfit := self._unfit():
                self._resign(unfit)
            elif self._clock() - self._renewed >= 0.9 * self._renew_every:
                self._hold()
        elif self._may_lead and not self._stalled() and self._is_my_turn():
            self._hold()

    def _unfit(self) -> str:
        """Return why this dispatcher cannot do the leader's work; empty if it can."""
        led, unseen = self._clock() - self._since, self._launcher.unseen()
        if unseen < BLIND_AFTER:
            self._told = False
        elif led >= BLIND_AFTER:
            return f"the cluster has given no good answer for {unseen:.0f} s"
        return "its loop makes no progress" if self._stalled() else ""

    def _stalled(self) -> bool:
        return self._clock() - self._worked >= self._stalled_after

    def _is_my_turn(self) -> bool:
        if not self._lease.is_free():
            self._free_since = None
            return False
        if self._free_since is None:
            self._free_since = self._clock()
        sees = self._launcher.look()  # it may take seconds, in which this process was stopped
        waited = self._clock() - self._free_since >= self._back_off
        return (sees or waited) and not self._stop.is_set()

    def _hold(self) -> None:
        now = self._clock()
        holds = self._lease.hold()
        self._renewed, self._free_since = now, None
        self.terms += self._lease.taken
        if holds and not self.leads:
            self._since = now
            self.leads = True
            self.changed.set()
        self.leads = holds

    def _resign(self, why: str) -> None:
        if not self._told:  # once: it may take turns with others for an hour
            self._told = True
            logger.warning("this watcher resigns: %s", why, extra={"action": "resigns"})
        self.leads, self._free_since = False, None
        self._lease.resign()
