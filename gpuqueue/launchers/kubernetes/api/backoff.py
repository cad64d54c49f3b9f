"""How long to wait before asking the API again."""

from __future__ import annotations

import random

#: Seconds before the second try: a dropped connection is mended at once, in practice.
FIRST = 0.2
#: The longest wait, in seconds: an API server that comes back is noticed within it.
CAP = 10.0


class Backoff:
    """Waits that double from ``first`` to ``cap`` seconds. Jitter: dispatchers that lost one server
    must not return as one.
    """

    def __init__(self, first: float = FIRST, cap: float = CAP) -> None:
        self._first = first
        self._cap = cap
        self._next = first

    def next(self, at_least: float | None = None) -> float:
        """Return the next wait in seconds; never less than the server asked for (``at_least``)."""
        wait, self._next = self._next * random.uniform(0.5, 1.0), min(self._next * 2, self._cap)
        return max(wait, at_least or 0.0)

    def reset(self) -> None:
        """Begin anew: it worked."""
        self._next = self._first
