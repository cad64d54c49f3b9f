"""The worker's consumer, which takes messages of any task name, and the strategy that hands each to
the dispatcher.

Setting ``worker_consumer`` names :class:`Consumer`. A message never enters the worker's pool: it is
kept and acknowledged in the consumer's own turn, so no worker slot is ever held.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from celery.utils.log import get_logger
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu import Message

from gpuqueue.errors import MalformedMessage, StateUnavailable
from gpuqueue.glue.messages.message import pack

logger = get_logger(__name__)
DISPATCH = "gpuqueue.dispatch"
#: What kombu's reader raises for an element of a queue's list that is no message: Celery's own
#: workers would end.
_GARBAGE = (ValueError, TypeError, LookupError, AttributeError)


class Accepting(Protocol):
    """Accepts messages. Accepting a message twice makes one job."""

    def __call__(self, packed: dict[str, Any]) -> str:
        """Accept a message; return the outcome."""
        ...


class _AnyTask(dict[Any, Callable[..., None]]):
    """Name of a task → strategy: the same for every name, and for what is none (a header may hold
    any JSON).
    """

    def __init__(self, consumer: Consumer) -> None:
        super().__init__()
        app = consumer.app
        self._strategy: Callable[..., None] = app.tasks[DISPATCH].start_strategy(app, consumer)

    def __getitem__(self, name: Any) -> Callable[..., None]:
        return self._strategy


class Consumer(CeleryConsumer):
    """Celery's consumer, with one strategy for all messages, Celery's built-in tasks included."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection_errors: tuple[type[Exception], ...] = (
            *self.conninfo.connection_errors,
            *_GARBAGE,
        )

    def update_strategies(self) -> None:
        self.strategies = _AnyTask(self)

    def on_unknown_message(self, body: Any, message: Message) -> None:
        if isinstance((message.headers or {}).get("id"), str):
            self.strategies[None](
                message, None, None, None, None
            )  # refused, where its caller can see it
        else:
            super().on_unknown_message(body, message)

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        if isinstance((message.headers or {}).get("id"), str):
            self.on_unknown_message(None, message)
        else:
            super().on_decode_error(message, exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        if isinstance(exc, _GARBAGE):
            # The transport took it off the list before it could not read it; connecting anew gives
            # back all else in hand.
            logger.error(
                "no message, thrown away: %s: %s",
                type(exc).__name__,
                exc,
                extra={"action": "garbage"},
            )
        super().on_connection_error_after_connected(exc)


def strategy(task: Any, app: Any, consumer: Any, **_: Any) -> Callable[..., None]:
    """Make the handler of messages (Celery's ``Task.Strategy``)."""
    accept: Accepting = consumer.controller.gpuqueue.accept
    eventer = consumer.event_dispatcher

    def handle(
        message: Message, payload: Any, ack: Any, reject: Any, callbacks: Any, **_: Any
    ) -> None:
        try:
            packed = pack(message, payload)
            outcome = accept(packed)
        except MalformedMessage as exc:
            # Without an id there is nobody to tell but the log.
            logger.error("message thrown away: %s", exc, extra={"action": "message_malformed"})
            message.reject_log_error(logger, consumer.connection_errors)
            return
        except StateUnavailable as exc:
            # Celery's consumer takes this for a lost connection, connects again, and gets the
            # message again.
            logger.error(
                "message not kept, will be delivered again: %s",
                exc,
                extra={"action": "accept_failed"},
            )
            time.sleep(0.5)  # the consumer gives up after five reconnections within a second
            raise ConnectionError(str(exc)) from exc
        message.ack_log_error(logger, consumer.connection_errors)
        if outcome != "known" and eventer and eventer.enabled:
            _send_received(eventer, packed["headers"])

    return handle


def _send_received(eventer: Any, headers: dict[str, Any]) -> None:
    eventer.send(
        "task-received",
        uuid=headers["id"],
        name=headers.get("shadow") or headers.get("task"),
        args=headers.get("argsrepr") or "",
        kwargs=headers.get("kwargsrepr") or "",
        root_id=headers.get("root_id"),
        parent_id=headers.get("parent_id"),
        retries=headers.get("retries") or 0,
        eta=headers.get("eta"),
        expires=headers.get("expires"),
    )
