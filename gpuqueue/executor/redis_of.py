"""Where the Redis of an executor is, and its client: the same for all that a runner forks."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from functools import cache

from celery import Celery

from gpuqueue.errors import SettingsError
from gpuqueue.executor.waiting import PATIENCE, StakePatience
from gpuqueue.model.celery_redis import (
    BACKEND,
    BROKER,
    DEFAULT_BACKEND,
    NAMES,
    STATE,
    CeleryRedis,
    for_celery,
    read,
)
from gpuqueue.model.redis_url import tls_problems
from gpuqueue.store import handshake
from gpuqueue.store.client import COMMAND_TIMEOUT, Redis, connect


@cache
def client(state_url: str) -> Redis:
    """Return the client of the state of the queue, connected nowhere yet."""
    made = connect(state_url, retries=PATIENCE)
    made.set_retry(StakePatience(PATIENCE, COMMAND_TIMEOUT, made.connection_pool))
    return made


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


def forget_default(environ: MutableMapping[str, str]) -> None:
    """Forget a result backend that was not set: Celery would prefer it to the application's."""
    if environ.pop(DEFAULT_BACKEND, None):
        environ.pop(BACKEND, None)


def told_backend(environ: Mapping[str, str]) -> str | None:
    """Return the result backend that the operator has set."""
    return None if environ.get(DEFAULT_BACKEND) else environ.get(BACKEND)


def name_backend(app: Celery, environ: Mapping[str, str]) -> None:
    """Give an application that names no result backend the one of its dispatchers."""
    with suppress(SettingsError):
        if not app.conf.result_backend and (backend := addresses(environ).backend):
            app.conf.result_backend = for_celery(backend)
            # A module of the application may have made one before, which keeps nothing.
            app._backend_cache = None
            vars(app._local).pop("backend", None)


def prepare(environ: Mapping[str, str]) -> Redis | None:
    """Make before a fork the client that each executor with these addresses of Redis would make,
    and return it. It has not connected.
    """
    with suppress(SettingsError, KeyError):
        made = client(addresses(environ).state or environ[BROKER])
        handshake.prepare(made.connection_pool)
        return made
    return None
