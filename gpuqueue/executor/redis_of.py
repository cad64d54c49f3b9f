"""Where the Redis of an executor is, and its client: the same for all that a runner forks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache

from gpuqueue.errors import SettingsError
from gpuqueue.executor.waiting import PATIENCE
from gpuqueue.model.celery_redis import BACKEND, BROKER, NAMES, STATE, CeleryRedis, read
from gpuqueue.model.redis_url import tls_problems
from gpuqueue.store.client import Redis, connect


@cache
def client(state_url: str) -> Redis:
    """Return the client of the state of the queue, connected nowhere yet."""
    return connect(state_url, retries=PATIENCE)


def addresses(environ: Mapping[str, str]) -> CeleryRedis:
    """Return the addresses of Redis. Raises :class:`SettingsError` for a wrong one, incomplete TLS
    options included: Celery would connect to any server.
    """
    return _checked(*(environ.get(name) for name in NAMES))


@cache
def _checked(*values: str | None) -> CeleryRedis:
    environ = dict(zip(NAMES, values, strict=True))
    try:
        where = read(environ)
    except ValueError as exc:
        raise SettingsError(str(exc)) from None
    for problem in tls_problems({name: environ[name] for name in (BROKER, BACKEND, STATE)}):
        raise SettingsError(problem)
    return where


def prepare(environ: Mapping[str, str]) -> Redis | None:
    """Make before a fork the client that each executor with these addresses of Redis would make,
    and return it. It has not connected.
    """
    with suppress(SettingsError, KeyError):
        return client(addresses(environ).state or environ[BROKER])
    return None
