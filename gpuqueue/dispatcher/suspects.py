"""Differences between the state and what runs that must persist before anything is done about them.

Never here: a time of Redis. A jump of its clock must neither hasten nor delay a repair.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Suspects:
    """Since when each difference has been seen in all runs. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: dict[str, float] = {}
        self._seen: dict[str, float] = {}

    def begin(self) -> None:
        """Begin a run: what the last one has not seen is forgotten."""
        self._before, self._seen = self._seen, {}

    def for_long(self, name: str, seconds: float) -> bool:
        """Note a difference in this run; return whether it has persisted for ``seconds``."""
        now = self._clock()
        self._seen[name] = self._before.get(name, now)
        return now - self._seen[name] >= seconds
