"""The worker's consumer for messages of any task name, and the strategy that passes each message to
the dispatcher.

The setting ``worker_consumer`` names :class:`Consumer`. A message never enters the worker pool: the
consumer keeps and acknowledges it in its loop, so that no message occupies a worker slot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from celery.utils.log import get_logger
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu import Message
from kombu.transport import redis as transport

from gpuqueue.errors import MalformedMessage, StateUnavailable
from gpuqueue.glue.messages.message import pack
from gpuqueue.glue.worker import events

logger = get_logger(__name__)
DISPATCH = "gpuqueue.dispatch"
#: Seconds before a new connection: Celery holds back a consumer that connects more often than five
#: times a second.
PAUSE = 0.5
#: Seconds within which a message in hand must be noted. 150: the loop counts as stuck after 180.
LONGEST_NOTE = 150.0
#: The errors of kombu's reader for a list element that is not a message. They would end a worker of
#: Celery.
_GARBAGE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class Accepting(Protocol):
    """Accepts messages. Accepting a message twice makes one job."""

    def __call__(self, packed: dict[str, Any]) -> str:
        """Accept a message; return the outcome."""
        ...


class _AnyTask(dict[Any, Callable[..., None]]):
    """Task name → strategy: the same for every name, and for other JSON that a header may hold."""

    def __init__(self, consumer: Consumer) -> None:
        super().__init__()
        app = consumer.app
        self._strategy: Callable[..., None] = app.tasks[DISPATCH].start_strategy(app, consumer)

    def __getitem__(self, name: Any) -> Callable[..., None]:
        return self._strategy


class _NotingQoS(transport.QoS):
    """Notes each message that kombu has taken off its list. Until then only this process has it, so
    an error that passes must not drop it.
    """

    passes: Callable[[BaseException], bool] = staticmethod(lambda exc: False)

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message, once Redis takes the note."""
        began = time.monotonic()
        while True:
            try:
                super().append(message, delivery_tag)
                return
            except Exception as exc:
                if not self.passes(exc):
                    raise
                if time.monotonic() - began > LONGEST_NOTE:
                    logger.error(
                        "message lost: %s", message.headers, extra={"action": "message_lost"}
                    )
                    raise
            time.sleep(PAUSE)


class _Blueprint(CeleryConsumer.Blueprint):
    """The steps of the consumer, its loop included: an error that passes is a lost connection."""

    def start(self, parent: Any) -> None:
        """Run the steps. Celery connects again after an error of a connection only; any other one
        ends the worker, READONLY and UNBLOCKED included.
        """
        passes: Callable[[BaseException], bool] = parent.controller.gpuqueue.passes
        _NotingQoS.passes = staticmethod(passes)
        transport.Channel.QoS = _NotingQoS
        try:
            super().start(parent)
        except Exception as exc:
            if isinstance(exc, parent.connection_errors) or not passes(exc):
                raise
            time.sleep(PAUSE)
            raise ConnectionError(str(exc)) from exc


class Consumer(CeleryConsumer):
    """Celery's consumer, with one strategy for all messages, Celery's built-in tasks included."""

    Blueprint = _Blueprint

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection_errors: tuple[type[Exception], ...] = (
            *self.conninfo.connection_errors,
            *_GARBAGE,
        )

    def update_strategies(self) -> None:
        self.strategies = _AnyTask(self)

    def on_unknown_message(self, body: Any, message: Message) -> None:
        # Refused, where its caller can see it; without an id, discarded.
        self.strategies[None](message, body, None, None, None)

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        # Also called for remote control, whose messages have no id.
        named = isinstance(message.headers, Mapping) and "id" in message.headers
        if named or not isinstance(message.body, str | bytes):
            self.on_unknown_message(None, message)
        else:
            super().on_decode_error(message, exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        if isinstance(exc, _GARBAGE):
            # The transport removed it from the list before it failed to read it. The reconnection
            # returns all other messages in hand.
            logger.error(
                "not a message, discarded: %s: %s",
                type(exc).__name__,
                exc,
                extra={"action": "garbage"},
            )
        super().on_connection_error_after_connected(exc)


def strategy(task: Any, app: Any, consumer: Any, **_: Any) -> Callable[..., None]:
    """Return the message handler (Celery's ``Task.Strategy``)."""
    accept: Accepting = consumer.controller.gpuqueue.accept
    eventer = consumer.event_dispatcher

    def handle(
        message: Message, payload: Any, ack: Any, reject: Any, callbacks: Any, **_: Any
    ) -> None:
        try:
            packed = pack(message, payload)
            outcome = accept(packed)
        except MalformedMessage as exc:
            # Without an id no caller can see a refusal: only the log has it.
            logger.error("message discarded: %s", exc, extra={"action": "message_malformed"})
            message.reject_log_error(logger, consumer.connection_errors)
            return
        except StateUnavailable as exc:
            # To Celery's consumer this is a lost connection: it connects again, and the broker
            # delivers the message again.
            logger.error(
                "message not kept; the broker will deliver it again: %s",
                exc,
                extra={"action": "accept_failed"},
            )
            time.sleep(PAUSE)
            raise ConnectionError(str(exc)) from exc
        message.ack_log_error(logger, consumer.connection_errors)
        if eventer and eventer.enabled:
            events.tell(eventer, outcome, packed["headers"])

    return handle
