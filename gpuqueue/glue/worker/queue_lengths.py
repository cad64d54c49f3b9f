"""How many messages the broker holds that nobody has taken: asked of Celery's own transport, which
knows its lists.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from kombu.exceptions import OperationalError


class BrokerUnavailable(Exception):
    """The broker did not answer."""


class QueueLengths:
    """Asks for the lengths of queues, over a connection of its own that gives up soon. Thread-safe.

    Args:
        app: the dispatcher's Celery application.
        names: the queues that it takes messages from.
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
                # Nothing is declared in Redis by that: a queue is a list, and there while it holds
                # something.
                return {
                    name: connection.default_channel.queue_declare(queue=name).message_count
                    for name in self._names
                }
            except (
                OperationalError,
                *connection.connection_errors,
                *connection.channel_errors,
            ) as exc:
                self._let_go()
                raise BrokerUnavailable(f"{type(exc).__name__}: {exc}") from exc

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()
