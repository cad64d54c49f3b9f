"""Celery's own connections of a dispatcher to a Redis behind Sentinels: each asks them when it
connects, also when a command is repeated. Those of redis-py may lead to an old primary.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.backends.redis import SentinelBackend
from kombu.transport import redis as transport

from gpuqueue.store import sentinel


class Channel(sentinel.Asking, transport.SentinelChannel):  # type: ignore[misc]
    """The channel of the broker."""


class Backend(SentinelBackend):  # type: ignore[misc]
    """The result backend."""

    def _get_pool(self, **params: Any) -> Any:
        pool = super()._get_pool(**params)
        sentinel.ask_again(pool)
        return pool


def ask_sentinels(app: Celery) -> None:
    """Make the connections of an application ask."""
    transport.SentinelTransport.Channel = Channel
    here = f"{__name__}:{Backend.__name__}"
    app.loader.override_backends = {**app.loader.override_backends, "sentinel": here}
