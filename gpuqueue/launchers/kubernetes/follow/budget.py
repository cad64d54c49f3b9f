"""How many requests a step of the leader may send, however many Jobs it concerns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Budget:
    """A number of requests per second, of which up to ``most`` are saved. Thread-safe."""

    def __init__(
        self, per_second: float, most: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._left, self._at = most, clock()

    def take(self, requests: int = 1) -> bool:
        """Return whether so many requests may be sent now, and count them."""
        with self._lock:
            now = self._clock()
            self._left = min(self._most, self._left + (now - self._at) * self._per_second)
            self._at = now
            if self._left < requests:
                return False
            self._left -= requests
            return True
