"""Clients of Redis, each with its timeouts: redis-py's defaults would end a blocking read after 5 s."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from gpuqueue.errors import ServerUnreachable

T = TypeVar("T")
#: Seconds a command may take. 10: far above any script here, below every lease's patience with a dead peer.
COMMAND_TIMEOUT = 10.0
#: Retries within one command, 50 ms doubling to 1 s: about 5 s, which bridges a restart of Redis.
RETRIES = 8

#: The longest pause between two of them, in seconds.
PAUSE = 1.0

#: What a caller may meet when Redis is away; commands here are safe to repeat.
Unavailable = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError)
RedisError = redis.RedisError
Redis = redis.Redis


class _Patience(Retry):
    """Tries again as often as it says, and no longer than that takes where Redis refuses: one that never answers may not take
    its timeout at every try."""

    def __init__(self, retries: int, timeout: float) -> None:
        super().__init__(ExponentialBackoff(cap=PAUSE, base=0.05), retries)
        self._seconds = max(timeout, retries * PAUSE)

    def call_with_retry(self, do: Callable[[], T], fail: Callable[..., Any], *args: Any, **kwargs: Any) -> T:
        began = time.monotonic()

        def failed(error: Exception, *more: Any) -> None:
            fail(error, *more)
            if time.monotonic() - began >= self._seconds:
                raise error

        return super().call_with_retry(do, failed, *args, **kwargs)


def connect(url: str, *, timeout: float = COMMAND_TIMEOUT, retries: int = RETRIES) -> redis.Redis:
    """Make a client (thread-safe, lazily connected). ``timeout`` in seconds must exceed any blocking command's own.

    A command is given up after ``timeout``, or ``retries`` seconds where that is more.
    """
    options = {
        "decode_responses": True,
        "socket_timeout": timeout,
        "retry": _Patience(retries, timeout),
        "retry_on_error": list(Unavailable),
        "health_check_interval": 30,
    }
    if not url.startswith("unix"):
        options |= {"socket_connect_timeout": 5.0, "socket_keepalive": True}
    client: redis.Redis = redis.Redis.from_url(_plain(url), **options)
    return client


def check(client: redis.Redis, url: str, setting: str = "CELERY_BROKER_URL") -> None:
    """Raise :class:`ServerUnreachable` unless Redis answers; it names the ``setting`` that the address came from."""
    try:
        client.ping()
    except redis.RedisError as exc:
        raise ServerUnreachable(
            f"{setting}={mask(url)!r} cannot be used: {exc}; start Redis there or correct the address"
        ) from exc


def mask(url: str) -> str:
    """Return the address without its password."""
    scheme, found, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}{found}{credentials.partition(':')[0]}:**@{host}" if at else url


def _plain(url: str) -> str:
    # Celery writes ?ssl_cert_reqs=CERT_NONE, redis-py wants none.
    return url.replace("ssl_cert_reqs=CERT_", "ssl_cert_reqs=")
