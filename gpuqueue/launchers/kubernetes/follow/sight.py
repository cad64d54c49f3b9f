"""Whether the API is in sight: the age of its last good answer on pods.

A stream that is silent tells nothing of a server that no longer answers. So a thread asks for a
sign of life whenever no other answer has come for a while.

Never here: what follows from an API that is out of sight.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from gpuqueue.launchers.base import BLIND_AFTER
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.steps import Steps

logger = logging.getLogger(__name__)
#: Seconds without an answer until the thread asks for one. With an answer that takes 5 s, the age
#: stays below BLIND_AFTER.
LOOK_EVERY = 3.0
#: The shortest time between two looks, in seconds.
LEAST = 0.5


class Sight:
    """Knows the age while this process leads, and after that until it has seen the API again.
    Thread-safe.

    Args:
        ask: sends the cheapest request that shows whether pods can be listed. Raises ApiError.
    """

    def __init__(
        self, ask: Callable[[], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._steps = Steps()
        self._leads = False
        self._good_at = -math.inf  # when the latest good answer came
        self._since: float | None = None  # from when the age counts; None: it is not asked for
        self._told = False  # whether the log has that the API is out of sight
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def age(self) -> float:
        """Return the seconds since the last good answer; 0 while nothing asks for them."""
        since = self._since
        return 0.0 if since is None else max(0.0, self._clock() - max(since, self._good_at))

    def seen(self) -> None:
        """Note a good answer."""
        with self._lock:
            if self._told:
                logger.info("the API answers again", extra={"action": "in_sight"})
                self._told = False
            self._good_at = self._clock()
            if not self._leads:
                self._since = None

    def lead(self, leads: bool) -> None:
        """Know the age from now on, or no longer than until the API is in sight."""
        with self._lock:
            self._leads = leads
            if leads:
                self._begin()
            elif self.age() < BLIND_AFTER:
                self._since = None

    def look(self) -> bool:
        """Return whether the API answers; ask it, unless it has just answered."""
        if self._clock() - self._good_at < LOOK_EVERY:
            return True
        try:
            self._ask()
        except Exception as exc:
            self._not_seen(exc)
            return False
        self._steps.succeeded("look")
        self.seen()
        return True

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _not_seen(self, exc: Exception) -> None:
        if not isinstance(exc, ApiError):
            self._steps.failed("look", exc)
        with self._lock:
            self._begin()
            if self._told:
                return
            self._told = True
        logger.warning("no sight of the API: %s", exc, extra={"action": "out_of_sight"})

    def _begin(self) -> None:
        """Count the age from now on, unless it is counted. The lock is held."""
        if self._since is None:
            self._since = self._clock()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gpuqueue-sight", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(max(LEAST, LOOK_EVERY - self.age())):
            with self._lock:
                if self._since is None:
                    self._thread = None
                    return
            self.look()
