"""Call a function once, later: one thread over a heap of times."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Timer:
    """Calls functions when they are due, one after the other; each must be quick. ``close`` drops
    the remaining ones.
    """

    def __init__(self, name: str) -> None:
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()  # functions do not compare
        self._condition = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = False

    def call(self, seconds: float, function: Callable[[], object]) -> None:
        """Call ``function()`` in ``seconds``."""
        with self._condition:
            if not self._started:
                self._started = True
                self._thread.start()
            heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._count), function))
            self._condition.notify()

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._started:
            self._thread.join(5)

    def _run(self) -> None:
        while (function := self._next()) is not None:
            try:
                function()
            except Exception:
                logger.exception("a postponed call failed", extra={"action": "later_failed"})

    def _next(self) -> Callable[[], object] | None:
        with self._condition:
            while not self._closed:
                left = self._heap[0][0] - time.monotonic() if self._heap else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._heap)[2]
                self._condition.wait(left)
            return None
