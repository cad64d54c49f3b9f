"""Redis clients with timeouts, and the errors of connections. The defaults of redis-py would end a
blocking read after 5 s.
"""

from __future__ import annotations

import errno
import logging
import ssl
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from gpuqueue.errors import (
    ServerNotReady,
    ServerNotTrusted,
    ServerRefuses,
    ServerUnreachable,
)
from gpuqueue.model import sentinel_url
from gpuqueue.model.redis_url import mask, plain
from gpuqueue.store import sentinel
from gpuqueue.store.handshake import opened, short
from gpuqueue.store.passing import (
    changes_role,
    describe,
    forbidden,
    passes,
    state_of,
    tls_error,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")
#: Timeout of a command in seconds. 10: far above any script here, below the time after which a
#: lease expires with its dead peer.
COMMAND_TIMEOUT = 10.0
#: Retries of one command, after 50 ms doubling to 1 s: about 5 s, enough for a restart of Redis.
RETRIES = 8
#: The longest pause between two retries, in seconds.
PAUSE = 1.0
#: Seconds of failures until a command logs that it waits. A dispatcher gives up at about this time.
SILENCE = 5.0

RedisError = redis.RedisError
ResponseError = redis.ResponseError
Redis = redis.Redis
#: The classes of errors that may pass. Their texts decide.
_REPEATABLE = (redis.RedisError, ConnectionError, TimeoutError)
#: The attribute of an error whose command was repeated in vain.
_REPEATED = "gpuqueue_repeated"
#: OpenSSL codes for a certificate of another host or address, and for an expired one.
_OTHER_HOST, _EXPIRED = (62, 64), 10


class Patience(Retry):
    """Repeats a command while its error passes: up to a number of times, and for a limited time. A
    server that never answers would take its timeout in every try.

    All commands here may be repeated. Each repeat has a new connection. If the server has another
    role now, the idle connections of the pool are closed as well: they lead to the same server.

    Args:
        retries: the number of repeats.
        timeout: the timeout of a command, in seconds.
        pool: where idle connections wait.
    """

    def __init__(self, retries: int, timeout: float, pool: redis.ConnectionPool) -> None:
        # Which errors pass depends on their texts, so :meth:`call_with_retry` decides.
        super().__init__(
            ExponentialBackoff(cap=PAUSE, base=0.05),
            retries,
            _REPEATABLE,
        )
        self._seconds = max(timeout, retries * PAUSE)
        self._timeout = timeout
        self._pool = pool

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # each connection copies it, and the pool cannot be copied

    def call_with_retry(
        self, do: Callable[[], T], fail: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> T:
        """Call ``do()`` until it succeeds, with ``fail(error)`` after each failure."""
        began, told = time.monotonic(), False

        def failed(error: Exception, *more: Any) -> None:
            nonlocal told
            if not self.repeats(error):
                raise error
            fail(error, *more)
            if changes_role(error):
                self._pool.disconnect(inuse_connections=False)
            if self.over(began) or (
                lacks_files(error) and time.monotonic() - began >= self._timeout
            ):
                raise error
            if not told and time.monotonic() - began >= SILENCE:
                told = True
                problem = describe(error).problem
                logger.warning(
                    "Redis %s: %s; waiting", problem, error, extra={"action": "redis_waits"}
                )

        try:
            return super().call_with_retry(do, failed, *args, **kwargs)
        except self._supported_errors as error:
            vars(error)[_REPEATED] = True
            raise

    def repeats(self, error: Exception) -> bool:
        """Return whether a command is repeated after an error."""
        return passes(error)

    def over(self, began: float) -> bool:
        """Return whether a command has failed for too long since ``began`` (monotonic)."""
        return time.monotonic() - began >= self._seconds


def be_patient(pool: redis.ConnectionPool, patience: Patience) -> None:
    """Have a pool and its connections repeat what fails and passes.

    A connection that leaves its pool is checked. If it is closed, redis-py replaces it, and raises
    if the new one is closed as well.
    """
    get_connection = pool.get_connection

    def unless_repeated(error: Exception) -> None:
        if _REPEATED in vars(error):  # by the connection, which cannot connect
            raise error

    def patiently(*args: Any, **kwargs: Any) -> Any:
        current: Retry = pool.connection_kwargs["retry"]
        return current.call_with_retry(lambda: get_connection(*args, **kwargs), unless_repeated)

    pool.set_retry(patience)
    # redis-py before 6 repeats no other error.
    pool.connection_kwargs["retry_on_error"] = list(_REPEATABLE)
    pool.get_connection = patiently  # type: ignore[method-assign]


def connect(url: str, *, timeout: float = COMMAND_TIMEOUT, retries: int = RETRIES) -> redis.Redis:
    """Make a client (thread-safe, lazily connected). ``timeout`` in seconds must exceed that of any
    blocking command.

    A command fails after ``timeout`` or ``retries`` seconds, the longer of both. An address of
    Sentinels leads to their primary: each new connection asks them.
    """
    address = plain(url)
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": timeout,
        "health_check_interval": 30,
        **short(),
    }
    if not address.startswith("unix"):
        options |= {"socket_connect_timeout": min(5.0, timeout), "socket_keepalive": True}
    client: redis.Redis
    if sentinel_url.is_sentinel(url):
        client = redis.Redis.from_pool(sentinel.pool(sentinel_url.parse(url), timeout, options))
    else:
        client = redis.Redis.from_url(address, **options)
    be_patient(client.connection_pool, Patience(retries, timeout, client.connection_pool))
    return client


def lacks_files(exc: BaseException | None) -> bool:
    """Whether this process has no file descriptor for a connection: Redis is not at fault, and
    waiting seldom helps.
    """
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno == errno.EMFILE:
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def check(client: redis.Redis, url: str, setting: str = "CELERY_BROKER_URL") -> None:
    """Raise :class:`ServerUnreachable` unless Redis answers. The error names the ``setting`` with
    the address, and the fix.

    Its subclasses :class:`ServerRefuses` and :class:`ServerNotTrusted` mean that waiting cannot
    help; :class:`ServerNotReady` means that it will.
    """
    try:
        client.ping()
    except redis.RedisError as exc:
        raise explained(exc, url, setting) from exc


def look(client: redis.Redis, url: str, setting: str) -> None:
    """Connect, and raise at once if waiting cannot help. A server that is unavailable raises
    nothing: the first command waits for it.

    Call it before other threads use the client, which does not retry meanwhile.
    """
    pool = client.connection_pool
    patience = client.get_retry() or Patience(RETRIES, COMMAND_TIMEOUT, pool)
    client.set_retry(Patience(0, COMMAND_TIMEOUT, pool))
    try:
        pool.release(opened(pool))
    except redis.RedisError as exc:
        error = explained(exc, url, setting)
        if isinstance(error, ServerRefuses | ServerNotTrusted):
            raise error from exc
    finally:
        client.set_retry(patience)


def explained(exc: redis.RedisError, url: str, setting: str, user: str = "") -> ServerUnreachable:
    """Return the error to raise: the setting, the problem, the fix. ``user`` is the user in
    users.acl whose rights are needed.
    """
    head = f"{setting}={mask(url)!r} cannot be used: {' '.join(str(exc).split())}"
    behind = sentinel_url.is_sentinel(url)
    if behind and (fix := _sentinel_fix(exc, setting)):
        return ServerRefuses(f"{head}; {fix}")
    if isinstance(exc, redis.AuthenticationError):
        return ServerRefuses(f"{head}; correct the user and the password in {setting}")
    if forbidden(exc):
        rights = f"the rights of {user}" if user else "the rights that it needs"
        return ServerRefuses(
            f"{head}; grant its user {rights} in Redis (deploy/redis/users.acl), or use another"
            " user"
        )
    if state := state_of(exc):
        return ServerNotReady(
            f"{setting}={mask(url)!r} {state.problem}: {' '.join(str(exc).split())}; {state.fix}"
        )
    tls = "" if url.startswith("unix") else _tls_fix(exc, setting)
    if tls:
        return ServerNotTrusted(f"{head}; {tls}")
    if behind:
        return ServerUnreachable(
            f"{head}; start the Sentinels and the primary that they name, correct the addresses,"
            " and check that this machine reaches what they announce (replica-announce-ip)"
        )
    if not url.startswith("rediss"):
        return ServerUnreachable(f"{head}; start Redis there or correct the address")
    if "Connection closed by server" in str(exc):
        return ServerUnreachable(
            f"{head}; it may require client certificates: add ssl_certfile and ssl_keyfile"
        )
    return ServerUnreachable(
        f"{head}; start Redis there, check that it uses TLS on this port, or correct the address"
    )


def _sentinel_fix(exc: redis.RedisError, setting: str) -> str:
    """Return the fix for a wrong option of an address of Sentinels; empty for another error."""
    if isinstance(exc, sentinel.SentinelRefuses):
        return (
            "correct username and password in its sentinel_kwargs, and allow that user the command"
            " `sentinel masters`"
        )
    if isinstance(exc, sentinel.NotASentinel):
        return f"use the port of a Sentinel, or begin {setting} with redis://"
    if isinstance(exc, sentinel.UnknownPrimary):
        return "correct its master_name"
    return ""


def _tls_fix(exc: BaseException | None, setting: str) -> str:
    """Return the fix for a failed TLS handshake; empty for another error."""
    if (error := tls_error(exc)) is not None:
        if not isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"check that Redis uses TLS on this port, or begin {setting} with redis:// (behind"
                " Sentinels: remove its ssl_… options)"
            )
        if error.verify_code in _OTHER_HOST:
            return f"use a host in {setting} that its certificate covers"
        if error.verify_code == _EXPIRED:
            return "renew the certificate of Redis"
        return f"set ssl_ca_certs in {setting} to the certificate of its authority"
    while exc is not None:
        if isinstance(exc, FileNotFoundError | PermissionError):
            return (
                f"check that the files in {setting} (ssl_ca_certs, ssl_certfile, ssl_keyfile) are"
                " readable"
            )
        exc = exc.__cause__ or exc.__context__
    return ""
