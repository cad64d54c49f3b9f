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
from gpuqueue.model.names import worker_name

logger = get_logger(__name__)
#: Seconds for each answer of the broker: an event is not worth more.
TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the worker of a class. ``job_id`` is empty if it is of the worker itself."""

    gpu_class: str
    name: str
    job_id: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    timestamp: float = field(default_factory=time.time)

    @property
    def hostname(self) -> str:
        """The name of the worker."""
        return worker_name(self.gpu_class)


class Heard:
    """Takes the events that Celery's request of a task sends, in place of its event dispatcher."""

    enabled = True

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def send(self, name: str, *, uuid: str, **fields: Any) -> None:
        """Take an event."""
        self.events.append((name, fields))


#: The connections of :func:`prepare`; each process uses its own once.
_prepared: dict[Celery, Any] = {}
#: Takes events to send, and waits for nothing.
Sender = Callable[[Event], object]


class EventSender:
    """Sends events over one connection, from the first one on. For one thread."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Any = None
        self._anew = False

    def __enter__(self) -> EventSender:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def send(self, events: Sequence[Event]) -> None:
        """Send events. Raises what the broker's client raises; the next call connects again."""
        try:
            if self._anew:
                self._anew = False
                self.close()
            if self._connection is None:
                self._connection = _connection(self._app)
            for each in events:  # those of workers repeat what an earlier one said
                if not each.job_id:
                    with self._dispatcher() as dispatcher:
                        _send(dispatcher, each)
            if of_jobs := [each for each in events if each.job_id]:
                # In one message, which a failure repeats or loses as a whole: monitors count.
                with self._dispatcher(("task",), len(of_jobs) + 1) as dispatcher:
                    for each in of_jobs:
                        _send(dispatcher, each)
                    dispatcher.flush()
        except BaseException:
            self.close()
            raise

    def connect_again(self) -> None:
        """Connect once more with the next events: channels have other names now. Thread-safe."""
        self._anew = True

    def _dispatcher(self, buffer_group: Sequence[str] = (), buffer_limit: int = 1) -> Any:
        return self._app.events.Dispatcher(
            self._connection,
            buffer_while_offline=False,
            buffer_group=buffer_group,
            buffer_limit=buffer_limit,
        )

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()


def _send(dispatcher: Any, event: Event) -> None:
    dispatcher.hostname = event.hostname
    dispatcher.headers = {"hostname": event.hostname}
    fields = {"uuid": event.job_id, **event.fields} if event.job_id else event.fields
    dispatcher.send(event.name, **{"timestamp": event.timestamp, **fields})


def try_to_send(app: Celery, events: Sequence[Event]) -> None:
    """Send events, or log that they are lost."""
    try:
        with EventSender(app) as sender:
            sender.send(events)
    except Exception as exc:
        logger.warning("events not sent: %s", exc, extra={"action": "event_lost"})


class Events:
    """A context that sends the events of one executor, as the worker of its class. It connects at
    the first event that it sends.
    """

    def __init__(self, app: Celery, gpu_class: str) -> None:
        self._app = app
        self._hostname = worker_name(gpu_class)
        self._stack = ExitStack()
        self._dispatcher: Any = None

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
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
        with suppress(TypeError, ValueError):  # it cannot be written; the sender logs why
            if (envelope := envelope_of(self._app)) is not None:
                return [envelope.pack(self._app, self._hostname, event, uuid=job_id, **fields)]
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
