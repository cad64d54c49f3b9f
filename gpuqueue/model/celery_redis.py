"""The broker, the result backend and the queue's state: the addresses and transport options that
Celery takes apart, put together, and the reverse. Pure: no I/O, no clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuqueue.model import sentinel_url
from gpuqueue.model.redis_url import mask, unix

BROKER, BACKEND, STATE = "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "GPUQUEUE_REDIS_URL"
BROKER_OPTIONS = "GPUQUEUE_BROKER_TRANSPORT_OPTIONS"
BACKEND_OPTIONS = "GPUQUEUE_RESULT_BACKEND_TRANSPORT_OPTIONS"
#: Tells an executor that the backend that it is told was not set: its application may name
#: another one.
DEFAULT_BACKEND = "GPUQUEUE_DEFAULT_BACKEND"
CONTROL_EXCHANGE, EVENT_EXCHANGE = "GPUQUEUE_CONTROL_EXCHANGE", "GPUQUEUE_EVENT_EXCHANGE"
#: The settings that tell where Redis is.
NAMES = (BROKER, BACKEND, STATE, BROKER_OPTIONS, BACKEND_OPTIONS)
#: The option of Celery's transports that all keys begin with.
PREFIX = "global_keyprefix"
_SECRET = re.compile(r"""(password["']?\s*[:=]\s*["']?)[^"',}]*""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CeleryRedis:
    """Three addresses, each complete: that of Sentinels names the primary. ``backend`` may be no
    Redis. The options are those that Celery takes beside the addresses. ``names_backend``: it was
    set; else it is the broker, unless an application names another one in its code.
    """

    broker: str | None
    backend: str | None
    state: str | None
    broker_options: Mapping[str, Any] = field(default_factory=dict)
    backend_options: Mapping[str, Any] = field(default_factory=dict)
    names_backend: bool = True

    def celery(self) -> dict[str, Any]:
        """Return the settings of an application of Celery."""
        found: dict[str, Any] = {
            "broker_url": for_celery(self.broker),
            "result_backend": for_celery(self.backend),
            "broker_transport_options": dict(self.broker_options),
            "result_backend_transport_options": dict(self.backend_options),
        }
        # Celery's backend and Flower read no TLS option of an address of Sentinels.
        for name, url in (
            ("broker_use_ssl", self.broker),
            ("redis_backend_use_ssl", self.backend),
        ):
            if url and sentinel_url.is_sentinel(url) and (tls := sentinel_url.parse(url).tls):
                found[name] = dict(tls)
        return found

    def environment(self) -> dict[str, str]:
        """Return the variables from which another process makes the same."""
        found = {
            BROKER: for_celery(self.broker),
            BACKEND: for_celery(self.backend),
            DEFAULT_BACKEND: None if self.names_backend else "1",
            STATE: self.state,
            BROKER_OPTIONS: json.dumps(self.broker_options) if self.broker_options else None,
            BACKEND_OPTIONS: json.dumps(self.backend_options) if self.backend_options else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def told_backend(self) -> str | None:
        """The result backend that was set, in Celery's form."""
        return for_celery(self.backend) if self.names_backend else None

    @property
    def broker_prefix(self) -> str:
        """The prefix of the broker's keys."""
        return str(self.broker_options.get(PREFIX) or "")

    @property
    def backend_prefix(self) -> str:
        """The prefix of the result backend's keys: Celery adds a mark to a plain word."""
        prefix = str(self.backend_options.get(PREFIX) or "")
        return f"{prefix}_" if prefix and prefix[-1] not in ":_-." else prefix


def read(environ: Mapping[str, str | None]) -> CeleryRedis:
    """Read the settings :data:`NAMES`. Raises ``ValueError`` with setting, value, problem, fix.

    Without a result backend it is the broker, and without an address of the state that is with the
    broker. Both then use the Sentinels of the broker: its other options are the broker's alone, as
    in Celery.
    """
    broker, backend, state = (environ.get(name) or None for name in (BROKER, BACKEND, STATE))
    broker_options = _options(BROKER_OPTIONS, environ.get(BROKER_OPTIONS))
    backend_options = _options(BACKEND_OPTIONS, environ.get(BACKEND_OPTIONS))
    names_backend = backend is not None
    broker, found = _complete(BROKER, broker, broker_options, BROKER_OPTIONS)
    broker_options |= found
    backend, found = _complete(
        BACKEND, backend or broker, {**found, **backend_options}, BACKEND_OPTIONS
    )
    backend_options |= found
    state, _ = _complete(STATE, state or broker, broker_options, BROKER_OPTIONS)
    return CeleryRedis(
        *(broker, backend, unix(state) if state else None, broker_options, backend_options),
        names_backend=names_backend,
    )


def for_celery(url: str | None) -> str | None:
    """Return an address in Celery's form."""
    return sentinel_url.parse(url).celery() if url and sentinel_url.is_sentinel(url) else url


def _complete(
    setting: str, url: str | None, options: Mapping[str, Any], named: str
) -> tuple[str | None, dict[str, Any]]:
    """Return the complete address and its options of Sentinels."""
    if not url or not sentinel_url.is_sentinel(url):
        return url, {}
    try:
        address = sentinel_url.parse(url, options)
    except sentinel_url.WrongAddress as exc:
        raise ValueError(f"{setting}={mask(url)!r} {exc}") from None
    if not address.master_name:
        raise ValueError(
            f"{setting}={mask(url)!r} has no master_name; set {named} to"
            ' {"master_name": "NAME"} with the name in `sentinel monitor`'
        )
    return str(address), dict(address.options)


def _options(setting: str, text: str | None) -> dict[str, Any]:
    """Read the options of a transport. Raises ``ValueError``."""
    if not text:
        return {}
    shown = _SECRET.sub(r"\1**", text[:200])
    fix = 'write e.g. {"master_name": "mymaster"}'
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"{setting}={shown!r} is no JSON: {exc}; {fix}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{setting}={shown!r} is no JSON object; {fix}")
    prefix = found.get(PREFIX, "")
    if not isinstance(prefix, str):
        raise ValueError(f"{setting}: {PREFIX}={prefix!r} is no text; write it in quotes")
    return found
