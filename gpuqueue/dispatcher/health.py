"""Whether a dispatcher lives, and whether it is ready: the words behind ``/healthz`` and
``/readyz``.

Busy is not dead, and a Redis that is away is no reason to end a dispatcher: it waits, and goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

#: Seconds without a turn of a loop until it is taken for stuck. 180: far above the longest wait in
#: a turn, an API server or a Redis that takes 10 s to be given up.
STUCK = 180.0
#: Seconds, beyond the watcher's own sleep, in which it must have had a turn that succeeded to count
#: as ready. 30: three answers of an API server that does not come.
LATE = 30.0


class WatchedLoop(Protocol):
    """A watcher, as far as its health goes. Times are of ``time.monotonic``; 0: not yet."""

    began: float
    """When its latest turn began."""
    succeeded: float
    """When its latest good turn ended."""
    trouble: str
    """Why its latest turn failed; empty: it did not."""

    def alive(self) -> bool:
        """Whether its thread runs."""
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
        """The consumer takes messages, and its loop has come round."""
        self._beat = self._clock()

    def pause(self) -> None:
        """The consumer takes no messages at present."""
        self._beat = None

    def sick(self) -> str:
        """Say why this process should be ended; empty: it should not."""
        now, beat = self._clock(), self._beat
        if not self._watcher.alive():
            return "the watcher's thread has ended"
        if self._watcher.began and now - self._watcher.began > STUCK + self._tick:
            return f"the watcher has been in one turn for {now - self._watcher.began:.0f} s"
        if beat is not None and now - beat > STUCK:
            return f"the consumer's loop has not come round for {now - beat:.0f} s"
        return ""

    def unready(self) -> str:
        """Say why this dispatcher does no work at present; empty: it does."""
        now, watcher = self._clock(), self._watcher
        if self._beat is None:
            return "takes no messages: it starts, stops, or waits for the broker"
        if watcher.trouble:
            return f"the watcher's last turn failed: {watcher.trouble}"
        if not watcher.succeeded:
            return "the watcher has not had a turn yet"
        if now - watcher.succeeded > LATE + self._tick:
            return f"the watcher's last good turn was {now - watcher.succeeded:.0f} s ago"
        return self.sick()
