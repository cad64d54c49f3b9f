"""The :class:`Profile` of an application of Celery."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from celery import Celery
from kombu.transport import redis as transport

from gpuqueue.model.celery_redis import PREFIX
from gpuqueue.model.profile import Profile, place_of, places_of, shown_as

#: The limits of how many tasks a profile has at most: dispatchers read it every few seconds.
MOST_LIMITS = 500


def profile_of(app: Celery, told: str | None = None) -> Profile:
    """Return the profile of an application, by its configuration. Connects nowhere. ``told``: the
    result backend that an operator has set, for dispatchers and their executors alike.
    """
    conf, options = app.conf, _options(app.conf.broker_transport_options)
    channel = transport.Channel
    backend = conf.result_backend if isinstance(conf.result_backend, str) else None
    prefix = str(_options(conf.result_backend_transport_options).get(PREFIX) or "")
    return Profile(
        steps=tuple(sorted(options.get("priority_steps") or channel.priority_steps)),
        separator=str(options.get("sep") or channel.sep),
        prefix=str(options.get(PREFIX) or ""),
        backend=place_of(backend, prefix),
        shown=shown_as(backend),
        serializer=str(conf.result_serializer),
        control=str(conf.control_exchange),
        events=str(conf.event_exchange),
        fanout_prefix=options.get("fanout_prefix", channel.fanout_prefix),
        fanout_patterns=bool(options.get("fanout_patterns", channel.fanout_patterns)),
        expires=_seconds(conf.result_expires),
        also=places_of(backend, prefix, str(conf.broker_url or ""), told),
        time_limit=_limit(conf.task_time_limit),
        time_limits=_limits_of_tasks(app),
        extended=bool(conf.result_extended),
        errors_if_ignored=bool(conf.task_store_errors_even_if_ignored),
    )


def _limits_of_tasks(app: Celery) -> Mapping[str, float] | None:
    """Return task → the hard limit in seconds that it declares; None: too many declare one."""
    found = {name: _limit(getattr(each, "time_limit", None)) for name, each in app.tasks.items()}
    limits = {name: limit for name, limit in found.items() if limit is not None}
    return limits if len(limits) <= MOST_LIMITS else None


def _limit(declared: object) -> float | None:
    """Return a hard limit as Celery takes it: 0 is none."""
    return float(declared) if isinstance(declared, int | float) and declared > 0 else None


def _seconds(expires: object) -> float | None:
    """Return Celery's result_expires in seconds; None means never."""
    if isinstance(expires, timedelta):
        return expires.total_seconds()
    return float(expires) if isinstance(expires, int | float) and expires else None


def _options(found: Any) -> dict[str, Any]:
    return dict(found or {})
