"""The work queue of a controller: which object it syncs next, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from tests.doubles.kubernetes.engine.loop import Engine, Timer
from tests.doubles.kubernetes.objects.bodies import Key


class WorkQueue:
    """Calls ``sync`` with the keys of objects, in the engine's thread.

    Args:
        part: the part of the engine.
        engine: runs the calls.
        sync: syncs one object.
    """

    def __init__(self, part: str, engine: Engine, sync: Callable[[Key], None]) -> None:
        self._part = part
        self._engine = engine
        self._sync = sync
        self._timers: dict[Key, Timer] = {}

    def add(self, key: Key, seconds: float, real_seconds: float = 0.0) -> None:
        """Sync an object after a scaled delay, and real seconds on top of it.

        Each object has one pending sync, the earliest.
        """
        due = time.monotonic() + seconds * self._engine.pace + real_seconds
        timer = self._timers.get(key)
        if timer is not None and timer.waits:
            if timer.due <= due:
                return
            timer.cancel()
        self._timers[key] = self._engine.after_exactly(
            self._part, due - time.monotonic(), partial(self._run, key)
        )

    def add_extra(self, key: Key, real_seconds: float) -> None:
        """Sync an object after real seconds, beside its pending sync."""
        self._engine.after_exactly(self._part, real_seconds, partial(self._run, key))

    def _run(self, key: Key) -> None:
        timer = self._timers.get(key)
        if timer is not None and not timer.waits:
            del self._timers[key]
        self._sync(key)
