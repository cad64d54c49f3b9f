"""Events for Flower from a process that is no worker. An event that cannot be sent costs no result,
and delays nothing for long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from celery import Celery
from celery.utils.log import get_logger

from gpuqueue.glue.results.envelope import envelope_of

logger = get_logger(__name__)
#: Seconds for each answer of the broker: an event is not worth more.
TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a job, as the worker ``hostname`` sends it.

    ``leaves``: that is the one-shot worker of an attempt, and goes offline afterwards, so that
    Flower stops listing it.
    """

    hostname: str
    name: str
    job_id: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    leaves: bool = False
    timestamp: float = field(default_factory=time.time)


#: The connections of :func:`prepare`; each process uses its own once.
_prepared: dict[Celery, Any] = {}
#: Takes events to send, and waits for nothing.
Sender = Callable[[Event], object]


def send_events(app: Celery, events: Sequence[Event]) -> None:
    """Send events over one connection. Raises what the broker's client raises."""
    with _connection(app) as connection:
        for each in events:
            with app.events.Dispatcher(connection, hostname=each.hostname) as dispatcher:
                fields = {"uuid": each.job_id, "timestamp": each.timestamp, **each.fields}
                dispatcher.send(each.name, **fields)
                if each.leaves:
                    dispatcher.send("worker-offline")


def try_to_send(app: Celery, events: Sequence[Event]) -> None:
    """Send events, or log that they are lost."""
    try:
        send_events(app, events)
    except Exception as exc:
        logger.warning("events not sent: %s", exc, extra={"action": "event_lost"})


class Events:
    """A context that sends the events of one executor as the worker ``hostname``, which then goes
    offline. It connects at the first event.
    """

    def __init__(self, app: Celery, hostname: str) -> None:
        self._app = app
        self._hostname = hostname
        self._stack = ExitStack()
        self._dispatcher: Any = None
        self._leaves = True

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if self._leaves:
                self._connected().send("worker-offline")
            self._stack.close()
        except Exception as error:
            logger.warning("events not flushed: %s", error, extra={"action": "event_lost"})

    def _connected(self) -> Any:
        if self._dispatcher is None:
            connection = self._stack.enter_context(_connection(self._app))
            self._dispatcher = self._stack.enter_context(
                self._app.events.Dispatcher(connection, hostname=self._hostname)
            )
        return self._dispatcher

    def send(self, event: str, job_id: str, **fields: Any) -> None:
        """Send one event of a job."""
        try:
            self._connected().send(event, uuid=job_id, **fields)
        except Exception as exc:
            logger.warning(
                "event %s of %s not sent: %s", event, job_id, exc, extra={"action": "event_lost"}
            )

    def packed(self, event: str, job_id: str, **fields: Any) -> list[tuple[str, str]]:
        """Return the message of an event with its channel, for a script of the same Redis; empty if
        the event must be sent.
        """
        return self._packed(event, uuid=job_id, **fields)

    def goodbye(self) -> list[tuple[str, str]]:
        """Return the last event as :meth:`packed` does. It is not sent at the end then."""
        packed = self._packed("worker-offline")
        self._leaves = not packed
        return packed

    def _packed(self, event: str, **fields: Any) -> list[tuple[str, str]]:
        with suppress(TypeError, ValueError):  # it cannot be written; the sender logs why
            if (envelope := envelope_of(self._app)) is not None:
                return [envelope.pack(self._app, self._hostname, event, **fields)]
        return []


def prepare(app: Celery) -> Any:
    """Make the connection of :class:`Events` before a fork, and return it. Only for a transport
    whose channels connect later.
    """
    connection = _prepared[app] = _connection(app)
    return connection


def _connection(app: Celery) -> Any:
    """Return a connection to the broker that waits for no answer for long."""
    if (prepared := _prepared.pop(app, None)) is not None:
        return prepared
    connection = app.connection_for_write(connect_timeout=TIMEOUT)
    connection.transport_options = {
        **(connection.transport_options or {}),
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
    }
    return connection
