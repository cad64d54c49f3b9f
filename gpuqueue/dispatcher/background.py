"""A queue beside the path: what only informs people is written by a thread that may wait, and that
no caller waits for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from gpuqueue.steps import Steps

logger = logging.getLogger(__name__)
T = TypeVar("T")
#: Items that wait at most, and items of one write.
LIMIT, AT_ONCE = 10_000, 100
#: Seconds between two writes while they fail: doubling, up to the second value.
EARLIEST, LATEST = 0.5, 5.0
#: Seconds for the last write of a thread that ends.
LAST_WRITE = 2.0


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """An item that waits; ``due`` is a monotonic time."""

    key: Hashable
    due: float
    item: T


class BackgroundQueue(Generic[T]):
    """A bounded queue with one thread. Thread-safe.

    Args:
        name: of the thread, and of its step (:class:`Steps`) without ``gpuqueue-``.
        write: writes items, oldest first. If it raises an error that passes, the items wait for the
            next write; the items of any other error are lost.
        passes: whether an error passes.
        lost: called with a number of items that are lost: the oldest ones if the queue is full.
        limit: items that wait at most.
        begin: called first in the thread.
        at_once: items of one write.
        in_turn: whether an item whose write has failed goes behind the others.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[list[T]], object],
        passes: Callable[[BaseException], bool],
        lost: Callable[[int], object],
        limit: int = LIMIT,
        begin: Callable[[], object] = lambda: None,
        at_once: int = AT_ONCE,
        in_turn: bool = False,
    ) -> None:
        self._name = name
        self._write = write
        self._passes = passes
        self._lost = lost
        self._limit = limit
        self._begin = begin
        self._at_once = at_once
        self._in_turn = in_turn
        self._waiting: OrderedDict[Hashable, Waiting[T]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self._pause = 0.0
        self._failures = 0
        self._thread: threading.Thread | None = None
        self._step = name.removeprefix("gpuqueue-")
        self._steps = Steps()

    def put(self, key: Hashable, item: T, seconds: float = 0.0) -> None:
        """Write an item in ``seconds``, in place of a waiting one with the same key."""
        with self._changed:
            self._waiting.pop(key, None)
            self._waiting[key] = Waiting(key, time.monotonic() + seconds, item)
            full = len(self._waiting) > self._limit
            if full:
                self._waiting.popitem(last=False)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        if full:
            self._lost(1)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        """Write what waits, unless that takes long; then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(LAST_WRITE)

    def _run(self) -> None:
        try:
            self._begin()
        except Exception as exc:  # would end the thread: a write tells whether it can do without
            self._steps.failed(self._step, exc)
        while some := self._due():
            self._write_some(some)

    def _due(self) -> list[Waiting[T]]:
        """Wait for items; take the due ones out. Nothing: the queue is closed."""
        with self._changed:
            while True:
                now = time.monotonic()
                due = (each for each in self._waiting.values() if each.due <= now or self._closed)
                some = [] if self._pause and not self._closed else list(islice(due, self._at_once))
                for each in some:
                    del self._waiting[each.key]
                if some or self._closed:
                    return some
                self._sleep(now)

    def _sleep(self, now: float) -> None:
        if self._pause:
            pause, self._pause = self._pause, 0.0
            self._changed.wait_for(lambda: self._closed, pause)
        elif self._waiting:
            first = min(each.due for each in self._waiting.values())
            self._changed.wait(max(0.0, first - now))
        else:
            self._changed.wait()

    def _write_some(self, some: list[Waiting[T]]) -> None:
        try:
            self._write([each.item for each in some])
        except Exception as exc:
            if self._passes(exc) and not self._closed:
                self._put_back(some, exc)
            elif len(some) == 1 or self._closed:
                self._steps.failed(self._step, exc)
                self._lost(len(some))
            else:  # one item must not cost the others
                for each in some:
                    self._write_some([each])
        else:
            self._failures = 0

    def _put_back(self, some: list[Waiting[T]], exc: Exception) -> None:
        if not self._failures:  # once for an outage
            logger.warning(
                "%s: not written yet: %s", self._name, exc, extra={"action": "write_later"}
            )
        self._failures += 1
        with self._changed:
            self._pause = min(LATEST, EARLIEST * 2 ** min(self._failures - 1, 10))
            old = [each for each in some if each.key not in self._waiting]
            kept = old[max(0, len(old) + len(self._waiting) - self._limit) :]
            for each in reversed(kept):
                self._waiting[each.key] = each
                self._waiting.move_to_end(each.key, last=self._in_turn)
        if lost := len(old) - len(kept):
            self._lost(lost)
