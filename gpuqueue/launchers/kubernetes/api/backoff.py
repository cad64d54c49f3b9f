"""Delays between tries of API requests."""

from __future__ import annotations

import random

#: Seconds before the second try. In practice, a dropped connection can be reopened at once.
FIRST = 0.2
#: Longest delay in seconds, and so the longest time until a recovered API server is noticed.
CAP = 10.0


class Backoff:
    """Delays that double from ``first`` to ``cap`` seconds.

    Random jitter keeps dispatchers that lost one server from reconnecting all at once.
    """

    def __init__(self, first: float = FIRST, cap: float = CAP) -> None:
        self._first = first
        self._cap = cap
        self._next = first

    def next(self, at_least: float | None = None) -> float:
        """Return the next delay in seconds, at least the Retry-After (``at_least``)."""
        wait, self._next = self._next * random.uniform(0.5, 1.0), min(self._next * 2, self._cap)
        return max(wait, at_least or 0.0)

    def reset(self) -> None:
        """Restart with the first delay, after a success."""
        self._next = self._first
