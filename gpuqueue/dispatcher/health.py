"""Whether a dispatcher is healthy and ready: the answers of ``/healthz`` and ``/readyz``.

A busy dispatcher is healthy. An unreachable Redis is no reason to restart one: it waits, and
continues. A cluster out of sight for minutes is one: the fault may be in the process (its token,
its connections, a name that it has resolved), and another leads meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

#: Seconds until a loop without a new cycle counts as stuck. 180: far above the longest wait in a
#: cycle, the timeout of an API server or a Redis (10 s).
STUCK = 180.0
#: Seconds, beyond the watcher's sleep, within which a cycle must have succeeded for a dispatcher to
#: be ready. 30: three timeouts of an API server.
LATE = 30.0
#: Seconds without a good answer of the cluster after which a dispatcher that must see it counts as
#: sick. 300: an upgrade of a control plane mostly takes less.
OUT_OF_SIGHT = 300.0


class WatchedLoop(Protocol):
    """The health of a watcher. Times are of ``time.monotonic``; 0: not yet."""

    began: float
    """Start of its latest cycle."""
    succeeded: float
    """End of its last successful cycle."""
    trouble: str
    """Why its latest cycle failed, or which step has failed for long; empty if all work."""

    @property
    def blind(self) -> bool:
        """Whether it must know the cluster state, and does not."""
        ...

    @property
    def unseen(self) -> float:
        """The age of the cluster's last good answer in seconds; 0 if it need not see it."""
        ...

    def alive(self) -> bool:
        """Return whether its thread runs."""
        ...


class Health:
    """One dispatcher's health. Thread-safe: each method reads or sets one value at a time.

    Args:
        watcher: its watcher.
        tick: the longest sleep of the watcher, in seconds.
    """

    def __init__(
        self, watcher: WatchedLoop, tick: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._watcher = watcher
        self._tick = tick
        self._clock = clock
        self._beat: float | None = None

    def beat(self) -> None:
        """The consumer's loop runs, and takes messages."""
        self._beat = self._clock()

    def pause(self) -> None:
        """The consumer takes no messages at present."""
        self._beat = None

    def sick(self) -> str:
        """Return why this process should be restarted; empty if it should not."""
        now, beat = self._clock(), self._beat
        if not self._watcher.alive():
            return "the watcher's thread has ended"
        if self._watcher.began and now - self._watcher.began > STUCK + self._tick:
            return f"one cycle of the watcher has taken {now - self._watcher.began:.0f} s so far"
        if beat is not None and now - beat > STUCK:
            return f"the consumer's loop has been stuck for {now - beat:.0f} s"
        if self._watcher.unseen > OUT_OF_SIGHT:
            return _unseen(self._watcher.unseen)
        return ""

    def unready(self) -> str:
        """Return why this dispatcher does not work at present; empty if it does."""
        now, watcher = self._clock(), self._watcher
        if self._beat is None:
            return "takes no messages: it starts, stops, or waits for the broker"
        if watcher.trouble:
            return f"the watcher fails: {watcher.trouble}"
        if not watcher.succeeded:
            return "the watcher has not completed a cycle yet"
        if now - watcher.succeeded > LATE + self._tick:
            return f"the watcher's last good cycle was {now - watcher.succeeded:.0f} s ago"
        if watcher.blind:
            unseen = watcher.unseen
            return _unseen(unseen) if unseen >= 1 else "the cluster state is unknown"
        return self.sick()


def _unseen(seconds: float) -> str:
    return f"the cluster has given no good answer for {seconds:.0f} s"
