"""The worker's consumer: remote control and events as in each Celery worker, and no task messages.

The setting ``worker_consumer`` names :class:`Consumer`. Its queues are those that the worker
consumes, and Celery adds and cancels them; their messages are taken by the intake.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery.utils.log import get_logger
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu import Message

logger = get_logger(__name__)
#: Seconds before a new connection: Celery holds back a consumer that connects more often than five
#: times a second.
PAUSE = 0.5
#: The errors of kombu's reader for what is not a message. They would end a worker of Celery.
_GARBAGE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class _Blueprint(CeleryConsumer.Blueprint):
    """The steps of the consumer, its loop included: an error that passes is a lost connection."""

    def start(self, parent: Any) -> None:
        """Run the steps. Celery connects again after an error of a connection only; any other one
        ends the worker, READONLY and UNBLOCKED included.
        """
        passes: Callable[[BaseException], bool] = parent.controller.gpuqueue.passes
        try:
            super().start(parent)
        except Exception as exc:
            if isinstance(exc, parent.connection_errors) or not passes(exc):
                raise
            time.sleep(PAUSE)
            raise ConnectionError(str(exc)) from exc


class Consumer(CeleryConsumer):
    """Celery's consumer, which garbage does not end."""

    Blueprint = _Blueprint

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection_errors: tuple[type[Exception], ...] = (
            *self.conninfo.connection_errors,
            *_GARBAGE,
        )

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        # Of a message of remote control.
        if isinstance(message.body, str | bytes):
            super().on_decode_error(message, exc)
        else:
            logger.error("not a message, discarded: %s", exc, extra={"action": "garbage"})
            message.reject_log_error(logger, self.connection_errors)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        if isinstance(exc, _GARBAGE):
            logger.error(
                "not a message, discarded: %s: %s",
                type(exc).__name__,
                exc,
                extra={"action": "garbage"},
            )
        super().on_connection_error_after_connected(exc)
