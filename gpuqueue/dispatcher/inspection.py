"""Answers of the queue's records to operators, in a thread: the loop of the worker waits for no
answer of Redis.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from gpuqueue.store.activity import Activity, activities
from gpuqueue.store.client import Redis
from gpuqueue.store.listing import Listing

logger = logging.getLogger(__name__)
#: Questions that wait at most: each has a caller who waits for about a second.
MOST_WAITING = 100


class Inspection(Listing):
    """Lists jobs, and runs what needs the lists in its thread.

    ``heard_within``: seconds since the last heartbeat of a dispatcher that is alive.
    """

    def __init__(self, client: Redis, heard_within: float) -> None:
        super().__init__(client)
        self._heard_within = heard_within
        self._questions: queue.Queue[Callable[[], object]] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None

    def activity(self, gpu_class: str) -> Activity:
        """Return how much a class does and has done."""
        return activities(self._client, [gpu_class])[gpu_class]

    def queues(self) -> list[str]:
        """Return the queues whose messages any dispatcher takes."""
        return self.consumed(self._heard_within)

    def soon(self, answer: Callable[[], object]) -> bool:
        """Have a question answered in the thread. False: too many wait. For one caller."""
        try:
            self._questions.put_nowait(answer)
        except queue.Full:
            return False
        if self._thread is None:
            # A daemon: a process that ends answers no more.
            self._thread = threading.Thread(target=self._run, name="gpuqueue-inspect", daemon=True)
            self._thread.start()
        return True

    def _run(self) -> None:
        while True:
            try:
                self._questions.get()()
            except Exception as exc:  # of the broker: the caller gets no answer
                logger.warning("no answer was sent: %s", exc, extra={"action": "inspect_failed"})
