"""How many messages wait in the broker, as Celery's transport counts them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from kombu.exceptions import OperationalError


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
        with self._lock:
            if self._connection is None:
                self._connection = self._app.connection_for_read(transport_options=self._options)
            connection = self._connection
            try:
                # In Redis this declares nothing: a queue is a list, which exists while it has
                # messages.
                return {
                    name: connection.default_channel.queue_declare(queue=name).message_count
                    for name in self._names
                }
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
