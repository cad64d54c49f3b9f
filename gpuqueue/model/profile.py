"""What an application says of the broker and of its results in its configuration, as far as
dispatchers must know it. Pure: no I/O, no clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self
from urllib.parse import urlsplit

from gpuqueue.model.celery_redis import BROKER_OPTIONS, CONTROL_EXCHANGE, EVENT_EXCHANGE
from gpuqueue.model.redis_url import is_redis, mask

_EXCHANGES = {"control_exchange": CONTROL_EXCHANGE, "event_exchange": EVENT_EXCHANGE}
_HOSTS = {"localhost": "127.0.0.1", "": "127.0.0.1"}


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile of an application, or of a dispatcher.

    ``steps``, ``separator`` and ``prefix`` are those of the broker's lists. ``control``, ``events``
    and the two options of fanouts name the channels of commands and events. ``backend`` tells the
    places of results apart, and has no secret; ``also`` names that place in other words, since two
    processes may reach one Redis by two addresses; ``shown`` is it for people. ``serializer`` is
    that of results, which Celery forgets after ``expires`` seconds; None: never.

    ``time_limits`` are the hard limits in seconds that tasks declare in code, by task; None: not
    known. ``time_limit`` is that of all other tasks; None: they have none.

    ``extended``: results have the name and arguments of the task. ``errors_if_ignored``: errors of
    tasks with ``ignore_result`` are stored.
    """

    steps: tuple[int, ...]
    separator: str
    prefix: str
    backend: str
    shown: str
    serializer: str
    control: str = "celery"
    events: str = "celeryev"
    fanout_prefix: bool | str = True
    fanout_patterns: bool = True
    expires: float | None = None
    also: tuple[str, ...] = ()
    time_limit: float | None = None
    time_limits: Mapping[str, float] | None = None
    extended: bool = False
    errors_if_ignored: bool = False

    @classmethod
    def parse(cls, found: object) -> Self | None:
        """Parse what :meth:`described` returned, in any version; None for anything else."""
        try:
            known: Mapping[str, Any] = dict(found)  # type: ignore[call-overload]
            named = {each.name: known[each.name] for each in fields(cls) if each.name in known}
            for name in {"steps", "also"} & named.keys():
                named[name] = tuple(named[name])
            for name in {"time_limit", "time_limits"} & named.keys():
                named[name] = _read_limits(named[name])
            return cls(**named)
        except (TypeError, ValueError, KeyError):
            return None

    def broker(self) -> dict[str, Any]:
        """Return how it names the lists and channels of the broker: setting → value. The names are
        those of Celery's settings and of kombu's ``broker_transport_options``.
        """
        return {
            "priority_steps": list(self.steps),
            "sep": self.separator,
            "global_keyprefix": self.prefix,
            "fanout_prefix": self.fanout_prefix,
            "fanout_patterns": self.fanout_patterns,
            "control_exchange": self.control,
            "event_exchange": self.events,
        }

    def described(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    def limit_of(self, task: str) -> float | None:
        """Return the hard limit that a task declares, in seconds; 0: none. None: not known."""
        if self.time_limits is None:
            return None
        return self.time_limits.get(task) or self.time_limit or 0.0

    def has_results_of(self, other: Profile) -> bool:
        """Whether both write results that the other reads."""
        places = {self.backend, *self.also} & {other.backend, *other.also}
        return bool(places) and self.serializer == other.serializer


#: Settings of Celery among the names in :meth:`Profile.broker`; the others are options of kombu.
EXCHANGES = frozenset(_EXCHANGES)
#: What a dispatcher cannot learn: other keys of Redis begin with it, too.
FIXED = "global_keyprefix"


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting of the broker that an application and its dispatchers have otherwise."""

    name: str
    theirs: Any
    ours: Any

    @property
    def setting(self) -> str:
        """The setting by which an operator tells it to dispatchers."""
        return _EXCHANGES.get(self.name, BROKER_OPTIONS)

    def shown(self, whose: str) -> str:
        """Return it for people: both sides, and the fix."""
        return (
            f"{whose} has {self.name}={json.dumps(self.theirs)}, and dispatchers have"
            f" {json.dumps(self.ours)}: messages, commands or events of one are lost on the other;"
            f" set {self.setting} to what the application has"
        )


def differences(theirs: Profile, ours: Mapping[str, Any]) -> list[Difference]:
    """Return what an application has otherwise than dispatchers: see :meth:`Profile.broker`."""
    return [
        Difference(name, value, ours[name])
        for name, value in theirs.broker().items()
        if value != ours[name]
    ]


def are_learnt(found: Collection[Difference], told: Collection[str]) -> bool:
    """Return whether dispatchers take these over. ``told``: what the operator has set, which they
    never replace.
    """
    return not {each.name for each in found} & {FIXED, *told}


def place_of(backend: str | None, prefix: str) -> str:
    """Return what tells the place of results apart: equal for two spellings of one address."""
    where = _where(backend)
    url = "".join(where) if where else backend or "disabled://"
    return hashlib.sha256(f"{prefix} {url}".encode()).hexdigest()[:16]


def places_of(
    backend: str | None, prefix: str, broker: str | None, told: str | None
) -> tuple[str, ...]:
    """Return in which other words a place of results is known: as the one that an operator names
    for both sides (``told``), and by its database in the Redis of the broker.
    """
    where, beside = _where(backend), _where(broker)
    found = [f"told {prefix}"] if told and backend == told else []
    if where and beside and where[0] == beside[0]:
        found.append(f"broker {prefix} {where[1]}")
    return tuple(found)


def _read_limits(found: Any) -> Any:
    """Return limits as they were kept: one, some by task, or None. Raises TypeError, ValueError."""
    if isinstance(found, Mapping):
        return {str(task): float(limit) for task, limit in found.items()}
    return None if found is None else float(found)


def _where(url: str | None) -> tuple[str, str] | None:
    """Return server and database of an address; None if it is not that of one Redis."""
    if not url or not is_redis(url) or "sentinel" in url:
        return None
    try:
        parts = urlsplit(url)
        if parts.scheme in ("unix", "redis+socket"):
            return parts.path, f"?{parts.query}"
        host = _HOSTS.get(parts.hostname or "", parts.hostname)
        return f"{host}:{parts.port or 6379}", f"/{parts.path.strip('/') or '0'}"
    except ValueError:  # a wrong port: its user is told elsewhere
        return None


def shown_as(backend: str | None) -> str:
    """Return the place of results for people."""
    return mask(backend) if backend else "none"
