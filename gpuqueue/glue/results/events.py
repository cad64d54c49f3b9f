"""Events for Flower from a process that is no worker. An unsent event never costs a result."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from celery import Celery
from celery.utils.log import get_logger

logger = get_logger(__name__)


class Events:
    """A context that sends events as the worker ``hostname``.

    ``leaves``: it is the one-shot worker of an attempt, and goes offline afterwards, so that Flower
    stops listing it.
    """

    def __init__(self, app: Celery, hostname: str, *, leaves: bool) -> None:
        self._leaves = leaves
        self._app = app
        self._hostname = hostname
        self._stack = ExitStack()
        self._events: Any = None

    def __enter__(self) -> Events:
        try:
            connection = self._stack.enter_context(self._app.connection_for_write())
            self._events = self._stack.enter_context(
                self._app.events.Dispatcher(connection, hostname=self._hostname)
            )
        except Exception as exc:
            logger.warning("no events will be sent: %s", exc, extra={"action": "event_lost"})
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if self._leaves and self._events is not None:
                self._events.send("worker-offline")
            self._stack.close()
        except Exception as error:
            logger.warning("events not flushed: %s", error, extra={"action": "event_lost"})

    def send(self, event: str, job_id: str, **fields: Any) -> None:
        """Send one event of a job."""
        if self._events is None:
            return
        try:
            self._events.send(event, uuid=job_id, **fields)
        except Exception as exc:
            logger.warning(
                "event %s of %s not sent: %s", event, job_id, exc, extra={"action": "event_lost"}
            )
