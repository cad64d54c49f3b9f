"""Clients of Redis, each with its timeouts: redis-py's defaults would end a blocking read after 5
s.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from gpuqueue.errors import ServerNotTrusted, ServerRefuses, ServerUnreachable
from gpuqueue.model.redis_url import mask, plain

T = TypeVar("T")
#: Seconds a command may take. 10: far above any script here, below every lease's patience with a
#: dead peer.
COMMAND_TIMEOUT = 10.0
#: Retries within one command, 50 ms doubling to 1 s: about 5 s, which bridges a restart of Redis.
RETRIES = 8

#: The longest pause between two of them, in seconds.
PAUSE = 1.0

#: What a caller may meet when Redis is away; commands here are safe to repeat.
Unavailable = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError)
RedisError = redis.RedisError
Redis = redis.Redis
#: What Redis says where a script's command is not allowed: 6.2, then 7.0 and newer.
_FORBIDDEN = (
    "can't run this command",
    "can't access at least one of the keys",
    "ACL failure in script",
    "NOPERM",
)
#: OpenSSL's codes of a certificate for another host or address, and of one that has expired.
_OTHER_HOST, _EXPIRED = (62, 64), 10


class _Patience(Retry):
    """Tries again as often as it says, and no longer than that takes where Redis refuses: one that
    never answers may not take its timeout at every try."""

    def __init__(self, retries: int, timeout: float) -> None:
        super().__init__(ExponentialBackoff(cap=PAUSE, base=0.05), retries)
        self._seconds = max(timeout, retries * PAUSE)

    def call_with_retry(
        self, do: Callable[[], T], fail: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> T:
        began = time.monotonic()

        def failed(error: Exception, *more: Any) -> None:
            fail(error, *more)
            if time.monotonic() - began >= self._seconds:
                raise error

        return super().call_with_retry(do, failed, *args, **kwargs)


def connect(url: str, *, timeout: float = COMMAND_TIMEOUT, retries: int = RETRIES) -> redis.Redis:
    """Make a client (thread-safe, lazily connected). ``timeout`` in seconds must exceed any
    blocking command's own.

    A command is given up after ``timeout``, or ``retries`` seconds where that is more.
    """
    address = plain(url)
    options = {
        "decode_responses": True,
        "socket_timeout": timeout,
        "retry": _Patience(retries, timeout),
        "retry_on_error": list(Unavailable),
        "health_check_interval": 30,
    }
    if not address.startswith("unix"):
        options |= {"socket_connect_timeout": 5.0, "socket_keepalive": True}
    client: redis.Redis = redis.Redis.from_url(address, **options)
    return client


def check(client: redis.Redis, url: str, setting: str = "CELERY_BROKER_URL") -> None:
    """Raise :class:`ServerUnreachable` unless Redis answers; it names the ``setting`` that the
    address came from, and the fix.

    Its subclasses :class:`ServerRefuses` and :class:`ServerNotTrusted` are for what no waiting
    mends.
    """
    try:
        client.ping()
    except redis.RedisError as exc:
        raise explained(exc, url, setting) from exc


def look(client: redis.Redis, url: str, setting: str) -> None:
    """Raise at once what no waiting mends; a server that is away is waited for by whoever asks it
    first.

    Not while other threads use the client: meanwhile it tries nothing again.
    """
    patience = client.get_retry() or _Patience(RETRIES, COMMAND_TIMEOUT)
    client.set_retry(_Patience(0, COMMAND_TIMEOUT))
    try:
        check(client, url, setting)
    except (ServerRefuses, ServerNotTrusted):
        raise
    except ServerUnreachable:
        pass
    finally:
        client.set_retry(patience)


def explained(exc: redis.RedisError, url: str, setting: str, rights: str = "") -> ServerUnreachable:
    """Return what to tell of an error: which setting, what is wrong, what to do. ``rights``: whose
    of users.acl are wanted.
    """
    head = f"{setting}={mask(url)!r} cannot be used: {' '.join(str(exc).split())}"
    if isinstance(exc, redis.AuthenticationError):
        return ServerRefuses(f"{head}; correct the user and the password in {setting}")
    if forbidden(exc):
        wanted = f"{rights} rights" if rights else "the rights that it needs"
        return ServerRefuses(
            f"{head}; give its user {wanted} in Redis (deploy/redis/users.acl), or name another"
            " user"
        )
    tls = _tls_fix(exc, setting)
    if tls:
        return ServerNotTrusted(f"{head}; {tls}")
    if not url.startswith("rediss"):
        return ServerUnreachable(f"{head}; start Redis there or correct the address")
    if "Connection closed by server" in str(exc):
        return ServerUnreachable(
            f"{head}; it may want a certificate of its clients: add ssl_certfile and ssl_keyfile"
        )
    return ServerUnreachable(
        f"{head}; start Redis there, see that it speaks TLS at this port, or correct the address"
    )


def forbidden(exc: BaseException) -> bool:
    """Whether Redis does not let the user do this, itself or within a script."""
    said = str(exc)
    return isinstance(exc, redis.exceptions.NoPermissionError) or (
        isinstance(exc, redis.ResponseError) and any(words in said for words in _FORBIDDEN)
    )


def _tls_fix(exc: BaseException | None, setting: str) -> str:
    """Return what to do about a handshake that failed, empty if it is not that."""
    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError):
            if exc.verify_code in _OTHER_HOST:
                return f"name in {setting} a host that its certificate is for"
            if exc.verify_code == _EXPIRED:
                return "renew the certificate of Redis"
            return f"name its authority's certificate in ssl_ca_certs of {setting}"
        if isinstance(exc, ssl.SSLError):
            return f"see that Redis speaks TLS at this port, or begin {setting} with redis://"
        if isinstance(exc, FileNotFoundError | PermissionError):
            return (
                f"see that the files named in {setting} (ssl_ca_certs, ssl_certfile, ssl_keyfile)"
                " can be read"
            )
        exc = exc.__cause__ or exc.__context__
    return ""
