"""Make Celery wait for Redis in this process, as the executor's own client does.

Celery gives up within seconds, and retries no error such as READONLY: it would store FAILURE for a
task that has succeeded, drop its callbacks, or lose its retry.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

from celery import Celery
from celery.backends.redis import RedisBackend
from kombu.transport import redis as transport
from redis import ConnectionPool

from gpuqueue.glue.results import envelope, events
from gpuqueue.glue.results.running import store_running_states
from gpuqueue.store import handshake, sentinel
from gpuqueue.store.client import COMMAND_TIMEOUT, Patience, Redis, be_patient
from gpuqueue.store.passing import passes, refuses

#: Seconds for which a Redis command is repeated: at the end of a job, hours of work are at stake.
#: At its start, the deadline of the watcher is shorter.
PATIENCE = 600
#: The same for a finisher: its dispatcher follows it, and starts it again.
FINISH_PATIENCE = 30
#: Seconds without a failure that end an outage. Celery pauses for up to 5 s between two tries.
QUIET = 30.0


class _Outage:
    """How long Redis has been failing. Celery repeats commands that have given up: each of these
    would be patient again.
    """

    def __init__(self) -> None:
        self._began = self._last = float("-inf")

    def seconds(self) -> float:
        """Count a failure; return the seconds since the first one of this outage."""
        now = time.monotonic()
        if now - self._last > QUIET:
            self._began = now
        self._last = now
        return now - self._began


class StakePatience(Patience):
    """Waits for more while the work of a task is at stake: for someone who gives this client its
    rights back. A refused executor that gave up would have its job run again, for hours, and the
    next executor be refused as well.
    """

    at_stake = False

    def repeats(self, error: Exception) -> bool:
        """Return whether a command is repeated after an error."""
        return super().repeats(error) or (self.at_stake and refuses(error))


class _OutagePatience(StakePatience):
    """Waits for the end of an outage, however many commands fail in it."""

    patience: float | None = None
    """None: :data:`PATIENCE`."""

    def __init__(self, pool: ConnectionPool, outage: _Outage) -> None:
        super().__init__(-1, COMMAND_TIMEOUT, pool)
        self._outage = outage

    def over(self, began: float) -> bool:
        """Return whether the outage has lasted for too long."""
        # A server that does not answer fails too seldom for one outage.
        seconds = max(self._outage.seconds(), time.monotonic() - began)
        return seconds >= (self.patience or PATIENCE)


class _SenderPatience(_OutagePatience):
    """The patience of messages: only while work is at stake. An event that cannot be sent must
    delay nothing.
    """

    def over(self, began: float) -> bool:
        """Return whether the outage has lasted for too long."""
        return super().over(began) or not self.at_stake


class _Waiting:
    """A channel of kombu whose connections wait. ``prepared_by`` is the process that has made it
    for those that it forks.
    """

    prepared_by = 0

    def _get_pool(self, asynchronous: bool = False) -> Any:
        pool = super()._get_pool(asynchronous)  # type: ignore[misc]
        handshake.shorten(pool)
        be_patient(pool, _SenderPatience(pool, _broker))
        return pool

    def _after_fork(self) -> None:
        if self.prepared_by != os.getppid():  # else it has connected nowhere
            super()._after_fork()  # type: ignore[misc]

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous)  # type: ignore[misc]
        if asynchronous:
            # kombu pings the server on this client, then sends on another connection, whose first
            # words tell as much.
            client.ping = lambda: True
        return client


class _Channel(_Waiting, transport.Channel):
    pass


class _SentinelChannel(_Waiting, sentinel.Asking, transport.SentinelChannel):
    pass


_broker = _Outage()
#: The applications that wait.
_prepared: WeakSet[Celery] = WeakSet()


def wait_for_redis(app: Celery, patience: float | None = None) -> None:
    """Make the result backend of an application wait for ``patience`` seconds, and the senders of
    messages within :func:`at_stake`.
    """
    _OutagePatience.patience = patience
    app.conf.result_backend_max_retries = int((patience or PATIENCE) // 5)  # for other backends
    if app in _prepared:
        return
    _prepared.add(app)
    transport.Transport.Channel = _Channel
    transport.SentinelTransport.Channel = _SentinelChannel
    app.conf.result_backend_always_retry = True
    app.conf.result_backend_max_sleep_between_retries_ms = 5_000
    store_running_states(app, passes)
    backend = app.backend
    if isinstance(backend, RedisBackend):
        backend.always_retry = False
        pool = backend.client.connection_pool
        sentinel.ask_again(pool)
        handshake.shorten(pool)
        be_patient(pool, _OutagePatience(pool, _Outage()))


def prepare(app: Celery, state: Redis | None) -> None:
    """Make before a fork what the first commands of each executor would make, without a connection.
    Where the broker is the Redis of the ``state``, events need none.
    """
    wait_for_redis(app)
    if isinstance(app.backend, RedisBackend):
        handshake.prepare(app.backend.client.connection_pool)
    with suppress(Exception):  # an executor logs that it sends no events
        if issubclass(app.connection_for_write().transport.Channel, _Waiting):
            connection = events.prepare(app)
            channel = connection.default_channel
            channel.prepared_by = os.getpid()
            same = state and _server(state.connection_pool) == _server(channel.pool)
            if same and not channel.global_keyprefix:
                envelope.learn(app, connection)


def _server(pool: ConnectionPool) -> Any:
    """Return what tells servers apart, and the rights that one has there."""
    known = pool.connection_kwargs
    names = ("host", "port", "path", "db", "username", "password")
    # Behind Sentinels no connection has a host.
    return [known.get(name) for name in names] if {"host", "path"} & set(known) else pool


@contextmanager
def at_stake() -> Iterator[None]:
    """Work is at stake meanwhile: messages wait for Redis, and no refusal is final."""
    before, StakePatience.at_stake = StakePatience.at_stake, True
    try:
        yield
    finally:
        StakePatience.at_stake = before
