"""How many messages wait in the broker, as Celery's transport counts them, and how many are set
aside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from kombu.exceptions import OperationalError

T = TypeVar("T")


class BrokerUnavailable(Exception):
    """The broker did not answer."""


class QueueLengths:
    """Reads the lengths of queues over a separate connection with a short timeout. Thread-safe.

    Args:
        app: the dispatcher's Celery application.
        names: the queues that it consumes.
        timeout: seconds for one answer of the broker.
    """

    def __init__(self, app: Any, names: Sequence[str], timeout: float) -> None:
        self._app = app
        self._names = names
        self._options = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "max_retries": 1,
        }
        self._connection: Any = None
        self._lock = threading.Lock()

    def __call__(self) -> dict[str, int]:
        """Return queue → messages, of all priorities. Raises :class:`BrokerUnavailable`."""
        # In Redis this declares nothing: a queue is a list, which exists while it has messages.
        return self._read(
            lambda channel: {
                name: channel.queue_declare(queue=name).message_count for name in self._names
            }
        )

    def members(self, key: str) -> int:
        """Return how many members a sorted set of the broker has, under the prefix of its keys.
        Raises :class:`BrokerUnavailable`.
        """

        def count(channel: Any) -> int:
            # The client of the channel knows the prefix of some commands only.
            client = redis.Redis(connection_pool=channel.pool)
            return int(client.zcard(f"{channel.global_keyprefix or ''}{key}"))

        return self._read(count)

    def _read(self, read: Callable[[Any], T]) -> T:
        with self._lock:
            if self._connection is None:
                self._connection = self._app.connection_for_read(transport_options=self._options)
            connection = self._connection
            try:
                return read(connection.default_channel)
            except (
                OperationalError,
                *connection.connection_errors,
                *connection.channel_errors,
            ) as exc:
                self._disconnect()
                raise BrokerUnavailable(f"{type(exc).__name__}: {exc}") from exc

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()
