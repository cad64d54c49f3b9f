"""A client of the primary that Sentinels name.

Each new connection asks the Sentinels, and each that is used asks again every second: an old
primary that the Sentinels cannot reach may go on taking writes, which are lost later. The client of
redis-py takes the first answer. A Sentinel that was cut off during a failover still names the old
primary, so this one takes the newest of the answers of most Sentinels. An idle connection to an old
primary is closed as soon as there is a newer one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self, cast

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from gpuqueue.model.sentinel_url import SentinelAddress

logger = logging.getLogger(__name__)
#: Timeout of a question to a Sentinel in seconds. It answers from memory.
TIMEOUT = 1.0
#: Seconds for which a primary counts as known, and those until the next question to Sentinels that
#: did not answer.
KNOWN, SILENT = 1.0, 10.0


class NoSentinel(redis.ConnectionError):
    """No Sentinel answers."""


class NoPrimary(MasterNotFoundError):
    """The Sentinels know the primary, and it is down: they have not elected another one yet."""


class UnknownPrimary(redis.ConnectionError):
    """The Sentinels that answer watch no primary of this name."""


class SentinelRefuses(redis.AuthenticationError):
    """A Sentinel rejects the user, the password or the command of the client."""


class NotASentinel(redis.ResponseError):
    """The address leads to a server that is no Sentinel."""


class Sentinels:
    """Finds the primary. Thread-safe; as ``Sentinel`` of redis-py, for its pool.

    Args:
        clients: of each Sentinel.
        least: how many others a Sentinel must see (``min_other_sentinels``).
    """

    def __init__(self, clients: Iterable[redis.Redis], least: int) -> None:
        self._clients = {_place(each.get_connection_kwargs()): each for each in clients}
        self._least = least
        self._lock = threading.Lock()
        self._last = ""
        self._known: tuple[str, int] | None = None
        self._ask_at = 0.0

    @classmethod
    def at(cls, address: SentinelAddress, timeout: float) -> Self:
        """Return those of an address; ``timeout`` are the seconds for all questions of one search
        together.
        """
        each = min(TIMEOUT, timeout / len(address.sentinels))
        options = {
            "socket_timeout": each,
            "socket_connect_timeout": each,
            "decode_responses": True,
            "retry": Retry(NoBackoff(), 0),
            **address.sentinel_kwargs,
        }
        clients = [redis.Redis(host, port, **options) for host, port in address.sentinels]
        return cls(clients, int(address.options.get("min_other_sentinels") or 0))

    def known(self, name: str) -> tuple[str, int] | None:
        """Return the primary as of a second ago, or None where no Sentinel says."""
        now = time.monotonic()
        if now >= self._ask_at:
            self._ask_at = now + SILENT  # other threads do not ask meanwhile
            try:
                self.discover_master(name)
            except (NoPrimary, UnknownPrimary):
                self._known, self._ask_at = None, now + KNOWN
            except redis.RedisError:
                self._known = None
        return self._known

    def discover_master(self, name: str) -> tuple[str, int]:
        """Return host and port of the primary. Raises :class:`NoPrimary`, :class:`NoSentinel`,
        :class:`UnknownPrimary`, :class:`SentinelRefuses` or :class:`NotASentinel`.
        """
        answers: dict[str, Mapping[str, Any]] = {}
        failures: dict[str, redis.RedisError] = {}
        for place, client in list(self._clients.items()):
            try:
                answers[place] = cast("Mapping[str, Any]", client.sentinel_masters())
            except redis.RedisError as exc:
                failures[place] = exc
            if len(answers) > len(self._clients) / 2:
                break
        self._order(failures)
        states = [found[name] for found in answers.values() if name in found]
        if not states:
            raise self._failure(name, answers, failures)
        # A Sentinel that missed a failover has an older epoch.
        newest = max(states, key=lambda state: (int(state["config-epoch"]), not _is_down(state)))
        if _is_down(newest):
            raise NoPrimary(f"the primary {name!r} at {_place(newest)} is down")
        if newest["num-other-sentinels"] < self._least:
            raise NoPrimary(
                f"the Sentinels see {newest['num-other-sentinels']} of one another, fewer than"
                f" min_other_sentinels={self._least}"
            )
        found = str(newest["ip"]), int(newest["port"])
        if self._last and self._last != _place(newest):
            logger.warning(
                "Redis has another primary now: %s, after %s",
                _place(newest),
                self._last,
                extra={"action": "redis_primary"},
            )
        self._last = _place(newest)
        self._known, self._ask_at = found, time.monotonic() + KNOWN
        return found

    def _order(self, failures: Mapping[str, object]) -> None:
        """Ask Sentinels that failed last: a dead one costs its timeout."""
        if failures:
            with self._lock:
                self._clients = dict(
                    sorted(self._clients.items(), key=lambda pair: pair[0] in failures)
                )

    def _failure(
        self,
        name: str,
        answers: Mapping[str, Mapping[str, Any]],
        failures: Mapping[str, redis.RedisError],
    ) -> redis.RedisError:
        for place, exc in failures.items():
            if isinstance(exc, exceptions.AuthenticationError | exceptions.NoPermissionError):
                return SentinelRefuses(f"Sentinel {place}: {exc}")
            if isinstance(exc, redis.ResponseError):
                return NotASentinel(f"{place} is no Sentinel: {exc}")
        if len(answers) > len(self._clients) / 2:
            known = sorted({each for found in answers.values() for each in found})
            return UnknownPrimary(
                f"Sentinels {', '.join(answers)} watch no primary {name!r}, but"
                f" {', '.join(known) or 'none'}"
            )
        few = f"too few Sentinels answer to know {name!r}" if answers else "no Sentinel answers"
        told = "; ".join(f"{place}: {exc}" for place, exc in failures.items())
        error = NoSentinel(f"{few}: {told}")
        error.__cause__ = next(iter(failures.values()), None)  # may be an error of TLS
        return error


class Connection(SentinelManagedConnection):
    """A connection that asks the Sentinels whenever it connects, and every second when it is used.
    That of redis-py asks them when it leaves its pool, and connects to the same server again when a
    command is repeated.
    """

    _asked = False

    def connect_to(self, address: tuple[str, int]) -> None:
        self._asked = True
        try:
            super().connect_to(address)  # type: ignore[no-untyped-call]
        finally:
            self._asked = False

    def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        connected: object = self._sock
        if connected is None and not self._asked:
            self.host, self.port = self.connection_pool.get_master_address()
        # The command is repeated, which asks again.
        super().connect_check_health(check_health, retry_socket_connect=False)

    def check_health(self) -> None:
        sentinels = self.connection_pool.sentinel_manager
        known = sentinels.known(self.connection_pool.service_name)
        if known not in (None, (self.host, self.port)):
            self.disconnect()  # type: ignore[no-untyped-call]
            raise redis.ConnectionError("another server is the primary now")
        super().check_health()  # type: ignore[no-untyped-call]


class SSLConnection(Connection, SentinelManagedSSLConnection):
    """The same with TLS."""


def ask_again(pool: redis.ConnectionPool) -> None:
    """Give a pool of Sentinels, made by another library, these connections and this search."""
    if isinstance(pool, SentinelConnectionPool):
        tls = issubclass(pool.connection_class, redis.SSLConnection)
        pool.connection_class = SSLConnection if tls else Connection
        theirs = pool.sentinel_manager
        found = Sentinels(theirs.sentinels, int(theirs.min_other_sentinels or 0))
        pool.sentinel_manager = pool.proxy.sentinel_manager = found


class Asking:
    """Before kombu's channel of Sentinels: its pool has these connections."""

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> redis.ConnectionPool:
        found: redis.ConnectionPool
        found = super()._sentinel_managed_pool(asynchronous)  # type: ignore[misc]
        ask_again(found)
        return found


def pool(
    address: SentinelAddress, timeout: float, options: Mapping[str, Any]
) -> redis.ConnectionPool:
    """Return a pool of connections to the primary."""
    tls = dict(address.tls)
    if "ssl_cert_reqs" in tls:
        tls["ssl_cert_reqs"] = tls["ssl_cert_reqs"].removeprefix("CERT_").lower()
    kind = SSLConnection if tls else Connection
    return SentinelConnectionPool(  # type: ignore[no-untyped-call]
        address.master_name,
        Sentinels.at(address, timeout),
        connection_class=kind,
        db=address.db,
        username=address.username,
        password=address.password,
        **tls,
        **options,
    )


def for_celery(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return Celery's transport options with short questions to the Sentinels: redis-py repeats
    each one three times, with pauses, before it asks the next Sentinel.
    """
    if "master_name" not in options:
        return dict(options)
    quick = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
    return {**options, "sentinel_kwargs": {**quick, **(options.get("sentinel_kwargs") or {})}}


def _is_down(state: Mapping[str, Any]) -> bool:
    return bool(state["is_sdown"] or state["is_odown"] or not state["is_master"])


def _place(state: Mapping[str, Any]) -> str:
    return f"{state.get('ip') or state['host']}:{state['port']}"
