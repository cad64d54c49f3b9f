"""One thread that runs the calls of controllers, scheduler and kubelets, each at its time.

A delay of a real cluster is multiplied with ``pace``, a delay of a manifest with ``manifest_pace``.
A part (``jobs``, ``scheduler``, ``gc``, ``nodes``, ``kubelet``, ``autoscaler``) can be stalled: its
calls wait until it resumes.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

log = logging.getLogger(__name__)

JOBS, SCHEDULER, COLLECTOR, NODE_CONTROLLER, KUBELET = "jobs", "scheduler", "gc", "nodes", "kubelet"
AUTOSCALER = "autoscaler"

#: Threads that start processes: a fork takes milliseconds, and must not delay the other calls.
STARTERS = 2


class Timer:
    """A call at a later time."""

    __slots__ = ("call", "due", "part")

    def __init__(self, part: str, due: float, call: Callable[[], None] | None) -> None:
        self.part = part
        self.due = due
        self.call = call

    def cancel(self) -> None:
        """Drop the call."""
        self.call = None

    @property
    def waits(self) -> bool:
        """Whether the call is still to come."""
        return self.call is not None


class Engine:
    """Runs calls at their time, one after another, under a lock.

    Args:
        lock: the engine holds it while a call runs.
        pace: the factor for delays of a real cluster.
        manifest_pace: the factor for delays of a manifest (grace, deadlines, time to live).
    """

    def __init__(
        self, lock: AbstractContextManager[Any], pace: float, manifest_pace: float = 1.0
    ) -> None:
        self.pace = pace
        self.manifest_pace = manifest_pace
        self.failures: list[BaseException] = []
        self._lock = lock
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._ready = threading.Condition()
        self._stalled: dict[str, list[Timer]] = {}
        self._closed = False
        self._starters = ThreadPoolExecutor(STARTERS, thread_name_prefix="cluster-starter")
        self._thread = threading.Thread(target=self._run, name="cluster-engine", daemon=True)
        self._thread.start()

    def after(self, part: str, seconds: float, call: Callable[[], None]) -> Timer:
        """Run a call after a delay of a real cluster, scaled by ``pace``."""
        return self.after_exactly(part, seconds * self.pace, call)

    def after_stated(self, part: str, seconds: float, call: Callable[[], None]) -> Timer:
        """Run a call after a delay that a manifest states, scaled by ``manifest_pace``."""
        return self.after_exactly(part, seconds * self.manifest_pace, call)

    def after_exactly(self, part: str, seconds: float, call: Callable[[], None]) -> Timer:
        """Run a call after real seconds."""
        timer = Timer(part, time.monotonic() + seconds, call)
        with self._ready:
            heapq.heappush(self._heap, (timer.due, next(self._order), timer))
            if self._heap[0][2] is timer:
                self._ready.notify()
        return timer

    def outside(self, part: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do slow work in another thread without the lock, then pass its result to ``then``."""

        def run() -> None:
            try:
                result = work()
            except Exception as error:
                self._failed(error)
                return
            self.after_exactly(part, 0, lambda: then(result))

        try:
            self._starters.submit(run)
        except RuntimeError:  # closing
            pass

    def stall(self, part: str) -> None:
        """Hold the calls of a part until :meth:`resume`."""
        with self._ready:
            self._stalled.setdefault(part, [])

    def resume(self, part: str) -> None:
        """Run the calls that a stalled part has missed, in the order of their times."""
        with self._ready:
            for timer in self._stalled.pop(part, []):
                heapq.heappush(self._heap, (timer.due, next(self._order), timer))
            self._ready.notify()

    def close(self) -> None:
        """Stop and drop all calls."""
        with self._ready:
            self._closed = True
            self._heap.clear()
            self._ready.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._starters.shutdown(wait=True, cancel_futures=True)

    def _run(self) -> None:
        while (timer := self._next()) is not None:
            with self._lock:
                call, timer.call = timer.call, None
                if call is not None:
                    try:
                        call()
                    except Exception as error:
                        self._failed(error)

    def _next(self) -> Timer | None:
        with self._ready:
            while not self._closed:
                now = time.monotonic()
                if self._heap and self._heap[0][0] <= now:
                    timer = heapq.heappop(self._heap)[2]
                    if timer.part in self._stalled:
                        self._stalled[timer.part].append(timer)
                    elif timer.waits:
                        return timer
                else:
                    self._ready.wait(self._heap[0][0] - now if self._heap else None)
            return None

    def _failed(self, error: Exception) -> None:
        log.error("the cluster's double failed", exc_info=error)
        self.failures.append(error)
