"""The Redis of the broker, as Celery's settings name it: the connections of the intake, apart from
those of Celery's loop.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import redis
from kombu.transport import redis as transport

#: Seconds for an answer, and for a new connection.
ANSWER, CONNECT = 10.0, 5.0
#: Where Redis tells which of the tracked keys have changed.
_INVALIDATED = "__redis__:invalidate"
#: Errors of a Redis, or of its user, without client-side tracking.
_UNTRACKED = (redis.ResponseError, redis.exceptions.NoPermissionError)


class Broker:
    """Two connections to the Redis of the broker: one for commands, one that is told when a list
    that they read has grown. After an error, close it and make another.

    Args:
        app: the Celery application of the dispatcher.
        tracked: have the second one.

    Raises:
        redis.RedisError, OSError: it cannot be used now.
    """

    def __init__(self, app: Any, *, tracked: bool = True) -> None:
        self._connection = app.connection_for_read(
            transport_options={"socket_timeout": ANSWER, "socket_connect_timeout": CONNECT}
        )
        self._waker: Any = None
        try:
            self.channel: transport.Channel = self._connection.channel()
            pool = self.channel.pool
            # RESP2, where one connection is told what another has read: redis-py hides pushes of
            # RESP3, and asks in it for notices that only a managed Redis sends.
            options = pool.connection_kwargs
            for name in [each for each in options if each.startswith("maint_notifications")]:
                del options[name]
            options["protocol"] = 2
            # Tracking belongs to one connection.
            self.client = redis.Redis(connection_pool=pool, single_connection_client=True)
            self.untracked = self._track(pool) if tracked else ""
        except BaseException:
            self.close()
            raise

    @property
    def prefix(self) -> str:
        """The prefix of all keys."""
        return str(self.channel.global_keyprefix or "")

    @property
    def separator(self) -> str:
        """What stands between the name of a queue and a priority in the name of a list."""
        return str(self.channel.sep)

    @property
    def steps(self) -> Sequence[int]:
        """The priorities that have lists, the highest one first."""
        return sorted(self.channel.priority_steps)

    def _track(self, pool: redis.ConnectionPool) -> str:
        """Have Redis tell the waker; return why it does not."""
        waker: Any = pool.make_connection()
        try:
            number = _ask(waker, "CLIENT", "ID")
            _ask(waker, "SUBSCRIBE", _INVALIDATED)
            client: Any = self.client
            client.execute_command("CLIENT", "TRACKING", "ON", "REDIRECT", number, "NOLOOP")
        except _UNTRACKED as exc:
            waker.disconnect()
            return str(exc)
        self._waker = waker
        return ""

    def wait(self, seconds: float) -> bool:
        """Wait until a list that was read may have grown. Returns whether Redis said so."""
        if self._waker is None:
            time.sleep(seconds)
            return False
        woken = False
        while self._waker.can_read(0.0 if woken else seconds):
            self._waker.read_response()
            woken = True
        return woken

    def list_for(self, queue: str, text: str) -> str:
        """Return the list of a queue that kombu would put a message onto."""
        try:
            priority = self.channel._get_message_priority(json.loads(text), reverse=False)
        except (ValueError, TypeError, LookupError, RecursionError):
            priority = 0
        return self.prefix + str(self.channel._q_for_pri(queue, priority))

    def restore_unacked(self) -> None:
        """Put back onto their lists the messages that dispatchers before this version left in hand,
        once they are older than their visibility timeout.
        """
        if self.client.exists(self.prefix + self.channel.unacked_index_key):
            self.channel.qos.restore_visible(interval=1)

    def close(self) -> None:
        """Close the connections."""
        waker, self._waker = self._waker, None
        if waker is not None:
            waker.disconnect()
        if (client := getattr(self, "client", None)) is not None:
            client.close()
        self._connection.release()


def _ask(connection: Any, *command: str) -> Any:
    connection.send_command(*command)
    return connection.read_response()
