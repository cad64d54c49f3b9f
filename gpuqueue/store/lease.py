"""The lease of the watcher that leads, and which dispatchers are alive."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Iterable

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.store.keys import CLASSES, DISPATCHERS, GROUPS, HOSTS, leader_key
from gpuqueue.store.scripts import Scripts

#: Seconds without a heartbeat after which a dispatcher is forgotten.
FORGET_DISPATCHER = 3600.0


class Lease:
    """One watcher of a group leads for as long as it renews the lease. All that a leader does is
    safe even if two watchers believe that they lead.

    A group is the dispatchers of the same classes in the same cluster. A dispatcher of other
    classes cannot launch for these, and one that sees another cluster cannot watch this one.
    """

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        seconds: float,
        group: str = "",
    ) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._milliseconds = int(seconds * 1000)
        self.name = name
        self._group = group
        self._key = leader_key(group)
        self._host = socket.gethostname()
        self._holder = f"{name} {secrets.token_hex(4)}"  # two workers may have the same name

    def hold(self) -> bool:
        """Take or renew the lease. Returns whether this watcher leads now."""
        if self._scripts.call_on(
            [self._key], "lease/renew", holder=self._holder, milliseconds=self._milliseconds
        ):
            return True
        return bool(self._client.set(self._key, self._holder, nx=True, px=self._milliseconds))

    def resign(self) -> None:
        """End the lease, so that another watcher can lead at once."""
        self._scripts.call_on([self._key], "lease/resign", holder=self._holder)

    def announce(self, classes: list[GpuClass], now: float) -> None:
        """Record that this dispatcher is alive ``now``, and the settings of its classes."""
        pipe = self._client.pipeline(transaction=False)
        for key, member in ((DISPATCHERS, self.name), (HOSTS, self._host), (GROUPS, self._group)):
            pipe.zadd(key, {member: now})
            pipe.zremrangebyscore(key, "-inf", now - FORGET_DISPATCHER)
        if classes:
            pipe.hset(CLASSES, mapping={each.name: json.dumps(each.public()) for each in classes})
        pipe.execute()

    def leave(self) -> None:
        """Resign, and record that this dispatcher is gone."""
        self.resign()
        self._client.zrem(DISPATCHERS, self.name)


def group_of(owner: str, classes: Iterable[str]) -> str:
    """Name the group of dispatchers that have the same classes in the same cluster."""
    return f"{owner}:{','.join(sorted(classes))}"


def classes_of(group: str) -> list[str]:
    """Return the classes in the name of a group."""
    return [name for name in group.rpartition(":")[2].split(",") if name]
