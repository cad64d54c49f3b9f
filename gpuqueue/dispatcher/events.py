"""Send the Celery events of jobs beside the path: an unreachable broker delays nothing."""

from __future__ import annotations

import itertools

from celery import Celery
from kombu.exceptions import OperationalError

from gpuqueue.dispatcher.background import BackgroundQueue
from gpuqueue.glue.results.events import Event, EventSender
from gpuqueue.store.passing import passes
from gpuqueue.telemetry import EVENTS_LOST

#: Events that wait at most: some have a traceback.
LIMIT = 1000


class EventQueue:
    """Sends events in a thread. Thread-safe; no call waits."""

    def __init__(self, app: Celery) -> None:
        self._count = itertools.count()
        self._sender = EventSender(app)
        self._queue: BackgroundQueue[Event] = BackgroundQueue(
            "gpuqueue-events",
            self._sender.send,
            _passes,
            EVENTS_LOST.inc,
            LIMIT,
        )

    def put(self, event: Event) -> None:
        """Have an event sent soon: of a worker itself, the latest one of its kind."""
        key = next(self._count) if event.job_id else (event.gpu_class, event.name)
        self._queue.put(key, event)

    def connect_again(self) -> None:
        """Connect once more: the channels of events have other names now."""
        self._sender.connect_again()

    def close(self) -> None:
        """Send what waits, unless that takes long."""
        self._queue.close()
        self._sender.close()


def _passes(exc: BaseException) -> bool:
    return isinstance(exc, OperationalError) or passes(exc)
