"""Faults of the Redis server."""

from __future__ import annotations

from typing import ClassVar

import redis

from tests.chaos.faults.base import Fault
from tests.support.redis_troubles import (
    Busy,
    Connections,
    NoDisk,
    NoReplicas,
    OutOfMemory,
    ReadOnly,
    Trouble,
)

#: Bytes of the append-only file that a disk loses.
LOST_BYTES = (200, 20_000)


class RedisKilled(Fault):
    name = "Redis killed, and back"

    def begin(self) -> None:
        self.stage.server.kill()

    def end(self) -> None:
        self.stage.server.start()


class RedisRestarted(Fault):
    name = "Redis restarted"

    def begin(self) -> None:
        self.stage.server.restart()


class ReplicaPromoted(Fault):
    name = "replica promoted"

    def begin(self) -> None:
        self._replica = self.stage.replica()

    def end(self) -> None:
        self.stage.promote(self._replica, caught_up=True)


class LaggingReplicaPromoted(Fault):
    """The replica gets nothing from the beginning of the fault on."""

    name = "lagging replica promoted"
    loses_state = True

    def begin(self) -> None:
        self._replica = self.stage.replica()
        with redis.Redis.from_url(self._replica.url) as client:
            client.replicaof("NO", "ONE")

    def end(self) -> None:
        self.stage.promote(self._replica, caught_up=False)


class LastMomentLost(Fault):
    name = "Redis lost its last moment"
    loses_state = True

    def begin(self) -> None:
        self.stage.server.kill()
        self.stage.cut_append_only_file(self.random.randint(*LOST_BYTES))
        self.stage.server.start()


class RedisTrouble(Fault):
    """A state of the server in which it refuses commands."""

    trouble: ClassVar[type[Trouble]]

    def begin(self) -> None:
        self._now = self.trouble(self.stage)
        self._now.begin()

    def end(self) -> None:
        self._now.end()
        self._now.client.close()


class PrimaryReadOnly(RedisTrouble):
    name = "Redis a replica for a while (READONLY)"
    trouble = ReadOnly


class FullMemory(RedisTrouble):
    name = "Redis out of memory (OOM)"
    trouble = OutOfMemory


class FullDisk(RedisTrouble):
    name = "full disk (MISCONF)"
    trouble = NoDisk


class ReplicasMissing(RedisTrouble):
    name = "replicas missing (NOREPLICAS)"
    trouble = NoReplicas


class ServerBusy(RedisTrouble):
    name = "a script that does not end (BUSY)"
    trouble = Busy


class ConnectionsKilled(RedisTrouble):
    name = "no connections to Redis left"
    trouble = Connections
