"""Call a function once, later: one thread over a heap of times."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from gpuqueue.steps import Steps


class Timer:
    """Calls functions when they are due, one after the other; each must be quick, and fails by
    itself. ``close`` drops the remaining ones.

    Args:
        name: of the thread.
        step: what the functions do; see :class:`Steps`.
    """

    def __init__(self, name: str, step: str) -> None:
        self._step = step
        self._steps = Steps()
        self._heap: list[tuple[float, int, str, Callable[[], object]]] = []
        self._count = itertools.count()  # functions do not compare
        self._condition = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = False

    def call(self, seconds: float, function: Callable[[], object], job: str = "") -> None:
        """Call ``function()`` in ``seconds``, for a ``job``."""
        with self._condition:
            if not self._started:
                self._started = True
                self._thread.start()
            due = time.monotonic() + seconds
            heapq.heappush(self._heap, (due, next(self._count), job, function))
            self._condition.notify()

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._started:
            self._thread.join(5)

    def _run(self) -> None:
        while (due := self._next()) is not None:
            job, function = due
            try:
                function()
            except Exception as exc:
                self._steps.failed(self._step, exc, job=job)
            else:
                self._steps.succeeded(self._step, job=job)

    def _next(self) -> tuple[str, Callable[[], object]] | None:
        with self._condition:
            while not self._closed:
                left = self._heap[0][0] - time.monotonic() if self._heap else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._heap)[2:]
                self._condition.wait(left)
            return None
