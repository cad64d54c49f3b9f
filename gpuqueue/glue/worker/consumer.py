"""The worker's consumer: remote control and events as in each Celery worker, and no task messages.

The setting ``worker_consumer`` names :class:`Consumer`. Its queues are those that the worker
consumes, and Celery adds and cancels them; their messages are taken by the intake.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from celery.utils.log import get_logger
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu import Message

from gpuqueue.glue.worker.commands import Commands

logger = get_logger(__name__)
#: Seconds before a new connection: Celery holds back a consumer that connects more often than five
#: times a second.
PAUSE = 0.5
#: Seconds between two tries to connect, at most. Those of kombu grow to 30, and no message is taken
#: before the next one.
BETWEEN = 2.0
#: The errors of kombu's reader for what is not a message. They would end a worker of Celery.
_GARBAGE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class NamesChanged(ConnectionError):
    """The broker's channels have other names now: the consumer connects once more."""


def connect_again(consumer: Any) -> None:
    """Have a consumer connect once more soon, if it is connected. Thread-safe."""
    if consumer.connection is not None:
        consumer.call_soon(_change)


def _change() -> None:
    raise NamesChanged("the broker's channels have other names now")


class _Blueprint(CeleryConsumer.Blueprint):
    """The steps of the consumer, its loop included: an error that passes is a lost connection.

    Without Celery's heartbeats: to monitors each class is a worker, and no dispatcher is.
    """

    default_steps = tuple(
        each for each in CeleryConsumer.Blueprint.default_steps if not each.endswith(":Heart")
    )

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
    #: Reads commands in other forms than JSON; set by the step that replaces their handlers.
    commands: Commands
    connection: Any

    def __init__(
        self, *args: Any, worker_options: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        # It greets no other worker, and follows no other's events: those come in the form of their
        # application, such as pickle, and nothing of a dispatcher depends on them.
        quiet = {"without_mingle": True, "without_gossip": True}
        options = {**(worker_options or {}), **quiet}
        super().__init__(*args, worker_options=options, **kwargs)
        self.connection_errors: tuple[type[Exception], ...] = (
            *self.conninfo.connection_errors,
            *_GARBAGE,
        )

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long the broker is away."""
        conn.ensure_connection = partial(conn.ensure_connection, interval_max=BETWEEN)
        return super().ensure_connected(conn)

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        # Of a message of remote control.
        if self.commands.receive(message):
            return
        if isinstance(message.body, str | bytes):
            super().on_decode_error(message, exc)
        else:
            logger.error("not a message, discarded: %s", exc, extra={"action": "garbage"})
            message.reject_log_error(logger, self.connection_errors)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        if isinstance(exc, NamesChanged):  # nothing is lost
            before, self.connection = self.connection, None
            with suppress(Exception):
                before.close()
            return
        if isinstance(exc, _GARBAGE):
            logger.error(
                "not a message, discarded: %s: %s",
                type(exc).__name__,
                exc,
                extra={"action": "garbage"},
            )
        super().on_connection_error_after_connected(exc)
