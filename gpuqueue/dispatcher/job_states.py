"""The states QUEUED and DISPATCHED in Celery's result backend: stored while they are true, and kept
from expiring while a job lives.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gpuqueue.glue.results.states import ResultStates
from gpuqueue.model.record import Record
from gpuqueue.store.reader import Reader

logger = logging.getLogger(__name__)


class JobStates:
    """Stores states for ``AsyncResult``. Thread-safe.

    Args:
        states: the result backend.
        reader: the records of the jobs.
        classes: names of this dispatcher's classes.
        stale_after: seconds until another dispatcher may have repaired a step of this one.
    """

    def __init__(
        self,
        states: ResultStates,
        reader: Reader,
        classes: Iterable[str],
        stale_after: float,
    ) -> None:
        self._states = states
        self._reader = reader
        self._classes = tuple(classes)
        self._stale_after = stale_after
        self._refresh_at = 0.0

    def store(
        self, record: Record, state: str, packed: Mapping[str, Any] | None, *, since: float
    ) -> None:
        """Store a state that is true ``since`` then (``time.monotonic``), unless the job may have
        moved on in another process: an old state would hide its result.
        """
        fresh = time.monotonic() - since < self._stale_after / 2
        if fresh and not record.get("ignore_result"):
            self._states.store(record, state, packed)

    def refresh_if_due(self, now: float) -> None:
        """Keep the stored states of live jobs from expiring. It works in a thread, since there may
        be many.
        """
        every = self._states.refresh_seconds
        if every and now >= self._refresh_at:
            self._refresh_at = now + every
            threading.Thread(target=self._refresh, name="gpuqueue-states", daemon=True).start()

    def _refresh(self) -> None:
        try:
            self._states.refresh(self._live())
        except Exception:
            logger.exception(
                "states not refreshed; the next refresh retries", extra={"action": "refresh_failed"}
            )

    def _live(self) -> Iterator[Record]:
        for name in self._classes:
            for record in self._reader.all_records(name):
                if record["state"] != "ended" and not record.get("ignore_result"):
                    yield record
