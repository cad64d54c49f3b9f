"""The lease of the watcher that leads, and which dispatchers are alive."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Iterable, Sequence

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.store.keys import CLASSES, CONSUMED, DISPATCHERS, GROUPS, HOSTS, leader_key
from gpuqueue.store.scripts import Scripts

#: Seconds without a heartbeat after which a dispatcher is forgotten.
FORGET_DISPATCHER = 3600.0
#: Seconds between two looks at whether each class has settings that commands can show.
SETTINGS_EVERY = 10.0


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
        machine: str = "",
    ) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._milliseconds = int(seconds * 1000)
        self.name = name
        self.group = group
        self._key = leader_key(group)
        self._hosts = [socket.gethostname(), *([machine] if machine else [])]
        self._holder = f"{name} {secrets.token_hex(4)}"  # two workers may have the same name
        self._holds = False
        self._settings_due = 0.0
        self.seconds = seconds
        self.taken = False
        """Whether the last :meth:`hold` found no lease: none was there, or Redis has lost it."""

    def is_free(self) -> bool:
        """Return whether no watcher leads."""
        return self._client.get(self._key) is None

    def hold(self) -> bool:
        """Take or renew the lease. Returns whether this watcher leads now."""
        self.taken = False
        if self._holds and self._scripts.call_on(
            [self._key], "lease/renew", holder=self._holder, milliseconds=self._milliseconds
        ):
            return True
        self._holds = self.taken = bool(
            self._client.set(self._key, self._holder, nx=True, px=self._milliseconds)
        )
        return self._holds

    def resign(self) -> None:
        """End the lease, so that another watcher can lead at once."""
        self._holds = False
        self._scripts.call_on([self._key], "lease/resign", holder=self._holder)

    def speaks_for(self, classes: Iterable[str], since: float) -> set[str]:
        """Return the classes for which this group answers monitors: those that no other group with
        a leader serves, or only groups behind this one in the alphabet. Of the groups with a
        heartbeat ``since`` a time.
        """
        groups: list[str] = self._client.zrangebyscore(GROUPS, since, "+inf")  # type: ignore[assignment]
        before = [group for group in groups if group < self.group]
        keys = [leader_key(group) for group in before]
        led: list[str | None] = self._client.mget(keys) if keys else []  # type: ignore[assignment]
        others = {
            name
            for group, leader in zip(before, led, strict=True)
            if leader
            for name in classes_of(group)
        }
        return set(classes) - others

    def announce(self, classes: list[GpuClass], now: float, queues: Iterable[str] = ()) -> None:
        """Record that this dispatcher is alive ``now`` and takes messages of queues, and, at times,
        the settings of classes that have none yet.
        """
        members = {
            DISPATCHERS: [self.name],
            HOSTS: self._hosts,
            GROUPS: [self.group],
            CONSUMED: list(queues),
        }
        pipe = self._client.pipeline(transaction=False)
        for key, names in members.items():
            if names:
                pipe.zadd(key, dict.fromkeys(names, now))
        # A member that was not there: it is the first time, or Redis has lost its data.
        if any(pipe.execute()) or time.monotonic() >= self._settings_due:
            for key in members:
                pipe.zremrangebyscore(key, "-inf", now - FORGET_DISPATCHER)
            for each in classes:
                pipe.hsetnx(CLASSES, each.name, json.dumps(each.public()))
            pipe.execute()
            self._settings_due = time.monotonic() + SETTINGS_EVERY

    def show(self, classes: Sequence[GpuClass]) -> None:
        """Record the settings of classes: those of the leader, which hold for all dispatchers."""
        if classes:
            self._client.hset(
                CLASSES, mapping={each.name: json.dumps(each.public()) for each in classes}
            )

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
