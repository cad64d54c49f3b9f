"""The states QUEUED and DISPATCHED in Celery's result backend, and the STARTED of container jobs:
stored beside the path while they are true, and kept from expiring while a job lives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gpuqueue.dispatcher.background import BackgroundQueue
from gpuqueue.glue.results.states import Informing, ResultStates
from gpuqueue.model.record import Record
from gpuqueue.model.states import BEFORE_SLOT, DISPATCHED, QUEUED, JobState
from gpuqueue.steps import Steps
from gpuqueue.store.passing import passes
from gpuqueue.store.reader import Reader
from gpuqueue.telemetry import STATES_LOST

#: State → seconds until it is stored. Most jobs have moved on by then: a job that starts at once
#: needs no QUEUED, and one whose executor starts soon needs no DISPATCHED.
DELAYS = {QUEUED: 0.1, DISPATCHED: 0.5}
#: Seconds between two looks at a state whose application has not told how it reads results, and
#: for which it waits for that.
LOOK, LONGEST = 0.5, 10.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A state to store; ``until``, a monotonic time, it waits for its application to tell."""

    informing: Informing
    until: float


class JobStates:
    """Stores states for ``AsyncResult``, in a thread. Thread-safe; no call waits.

    Args:
        states: the result backend.
        reader: the records of the jobs.
        classes: names of this dispatcher's classes.
        informs: whether states are stored that no Celery worker stores.
        read: whether the application in an image reads what this dispatcher writes. None: it has
            not told yet. Its states wait for that, up to :data:`LONGEST`, since one that it cannot
            read breaks its callers; then it is taken to read what Celery writes by default.
    """

    def __init__(
        self,
        states: ResultStates,
        reader: Reader,
        classes: Iterable[str],
        informs: bool = True,
        read: Callable[[str | None], bool | None] = lambda image: True,
    ) -> None:
        self._states = states
        self._reader = reader
        self._classes = tuple(classes)
        self._informs = informs
        self._read = read
        self._queue: BackgroundQueue[Waiting] = BackgroundQueue(
            "gpuqueue-states", self._write, passes, STATES_LOST.inc, begin=states.answer_soon
        )
        self._refresh_at = 0.0
        self._steps = Steps()
        self._refreshing = threading.Lock()
        self._closing = False

    def store(self, record: Record, state: str, packed: Mapping[str, Any] | None = None) -> None:
        """Have a state stored soon, if it is still true then. ``packed``: the message."""
        if record.get("ignore_result") or (state in DELAYS and not self._informs):
            return
        if self._is_read(record) is False:
            return
        headers = packed["headers"] if packed else {}
        waiting = Waiting(Informing.of(record, state, headers), time.monotonic() + LONGEST)
        self._put(waiting, DELAYS.get(state, 0.0))

    def close(self) -> None:
        """Store what waits, unless that takes long."""
        self._closing = True
        self._queue.close()

    def _is_read(self, record: Record) -> bool | None:
        # A container job has no code of an application that could tell.
        return True if record.get("container") else self._read(record.get("image"))

    def _put(self, waiting: Waiting, seconds: float) -> None:
        record = waiting.informing.record
        key = (record["gpu_class"], record["delivery"], waiting.informing.state)
        self._queue.put(key, waiting, seconds)

    def _write(self, some: list[Waiting]) -> None:
        """Store those of the states that are true by now: an old state would hide a newer one."""
        wanted: dict[str, list[Informing]] = {}
        for waiting in some:
            each = waiting.informing
            read = self._is_read(each.record)
            if read is None and time.monotonic() < waiting.until:
                if not self._closing:
                    self._put(waiting, LOOK)
                continue
            if read is False:
                continue
            wanted.setdefault(each.record["gpu_class"], []).append(each)
        true: list[Informing] = []
        for name, asked in wanted.items():
            deliveries = [each.record["delivery"] for each in asked]
            now = {each["delivery"]: each for each in self._reader.records(name, deliveries)}
            true += [each for each in asked if _is_true(each, now.get(each.record["delivery"]))]
        self._states.store(true)

    def refresh_if_due(self) -> None:
        """Keep the stored states of live jobs from expiring. It works in a thread, since there may
        be many.
        """
        every, now = self._states.refresh_seconds, time.monotonic()
        if every and now >= self._refresh_at:
            self._refresh_at = now + every
            threading.Thread(target=self._refresh, name="gpuqueue-refresh", daemon=True).start()

    def _refresh(self) -> None:
        if not self._refreshing.acquire(blocking=False):
            return  # the last one is still at work
        try:
            for name in self._classes:
                self._refresh_class(name)
        finally:
            self._refreshing.release()

    def _refresh_class(self, name: str) -> None:
        try:
            self._states.refresh(self._live(name))
        except Exception as exc:
            self._steps.failed("states", exc, where=name)  # the next refresh tries again
        else:
            self._steps.succeeded("states", where=name)

    def _live(self, name: str) -> Iterator[Record]:
        """Yield the records of the jobs that wait or run, and never those of ended ones."""
        for deliveries in self._reader.live(name):
            for record in self._reader.records(name, deliveries):
                if not record.get("ignore_result"):
                    yield record


def _is_true(informing: Informing, now: Record | None) -> bool:
    """Return whether a state is what the record says now."""
    if now is None:
        return False
    if informing.state == QUEUED:
        return now["state"] in BEFORE_SLOT
    wanted = JobState.LAUNCHING if informing.state == DISPATCHED else JobState.RUNNING
    same = now.get("attempt") == informing.record.get("attempt")
    return now["state"] == wanted and same
