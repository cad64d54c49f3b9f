"""Who leads, who is there, and how the leader is woken."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable, Iterable

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.store.keys import (
    CLASSES,
    DISPATCHERS,
    GROUPS,
    HOSTS,
    REVOKED_STAMPS,
    leader_key,
    wake_key,
)

_RENEW = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
    " end return 0"
)
_RESIGN = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
)
#: A dispatcher unheard of for this long is forgotten, in seconds.
FORGET_DISPATCHER = 3600.0


class Lease:
    """One watcher of a group leads, as long as it renews. Everything a leader does is safe even
    when two believe they lead.

    A group are the dispatchers of the same classes in the same cluster: who knows other classes
    cannot launch for these, and who sees another cluster cannot watch this one.
    """

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        seconds: float,
        group: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._milliseconds = int(seconds * 1000)
        self._clock = clock
        self.name = name
        self._group = group
        self._key = leader_key(group)
        self._host = socket.gethostname()
        self._holder = f"{name} {secrets.token_hex(4)}"  # two workers may have been given one name
        self._renew = client.register_script(_RENEW)
        self._resign = client.register_script(_RESIGN)

    def hold(self) -> bool:
        """Take or renew the lease; answers whether this watcher leads now."""
        if self._renew(keys=[self._key], args=[self._holder, self._milliseconds]):
            return True
        return bool(self._client.set(self._key, self._holder, nx=True, px=self._milliseconds))

    def resign(self) -> None:
        """Let another lead at once."""
        self._resign(keys=[self._key], args=[self._holder])

    def announce(self, classes: list[GpuClass]) -> None:
        """Say that this dispatcher is there, and what its classes are."""
        now = self._clock()
        pipe = self._client.pipeline(transaction=False)
        for key, member in ((DISPATCHERS, self.name), (HOSTS, self._host), (GROUPS, self._group)):
            pipe.zadd(key, {member: now})
            pipe.zremrangebyscore(key, "-inf", now - FORGET_DISPATCHER)
        if classes:
            pipe.hset(CLASSES, mapping={each.name: json.dumps(each.public()) for each in classes})
        pipe.execute()

    def leave(self) -> None:
        """Say that this dispatcher is gone, and resign."""
        self.resign()
        self._client.zrem(DISPATCHERS, self.name)


def group_of(owner: str, classes: Iterable[str]) -> str:
    """Name the group of dispatchers that have the same classes in the same cluster."""
    return f"{owner}:{','.join(sorted(classes))}"


def wake(client: redis.Redis, gpu_class: str) -> None:
    """Wake the leader of a class. Tokens beyond a few say nothing more."""
    pipe = client.pipeline(transaction=False)
    pipe.lpush(wake_key(gpu_class), "1")
    pipe.ltrim(wake_key(gpu_class), 0, 7)
    pipe.execute()


def wait(client: redis.Redis, classes: Iterable[str], seconds: float) -> bool:
    """Sleep until woken for one of some classes, ``seconds`` at most (0.01 at least: Redis takes 0
    for ever).

    The client's timeout must be longer.
    """
    return (
        client.blpop([wake_key(name) for name in classes], timeout=max(0.01, seconds)) is not None
    )


def revoke_stamps(client: redis.Redis, stamps: dict[str, list[str]], now: float) -> None:
    """Remember revoked stamps (Celery's ``revoke_by_stamped_headers``) for jobs that come later."""
    client.hset(
        REVOKED_STAMPS,
        mapping={f"{header}={value}": now for header, values in stamps.items() for value in values},
    )


def stamps_revoked(client: redis.Redis, stamps: dict[str, list[str]], since: float) -> bool:
    """Whether any of a message's stamps was revoked since a time."""
    fields = [f"{header}={value}" for header, values in stamps.items() for value in values]
    found: list[str | None] = client.hmget(REVOKED_STAMPS, fields) if fields else []  # type: ignore[assignment]
    return any(time_ is not None and float(time_) >= since for time_ in found)
