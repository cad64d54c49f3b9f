"""The faults. Each begins and ends on a stage, and is named by the row of the table in which its
schedules count.
"""

from __future__ import annotations

import os
import random
import signal
from typing import ClassVar

import psutil
import redis

from tests.chaos.plan import Planned
from tests.chaos.stage import DISPATCHERS, Stage
from tests.chaos.steps import OF_DISPATCHERS, OF_EXECUTORS, OF_FINISHERS
from tests.support.launching import KUBERNETES, LOCAL
from tests.support.redis_troubles import (
    Busy,
    Connections,
    NoDisk,
    NoReplicas,
    OutOfMemory,
    ReadOnly,
    Trouble,
)

#: How far a clock is off, in seconds.
FAR = 90.0
#: Bytes of the append-only file that a disk loses.
LOST_BYTES = (200, 20_000)


class Fault:
    """``begin`` and ``end`` are called once each; a fault of a moment has no ``end``."""

    name: ClassVar[str]
    launchers: ClassVar[tuple[str, ...]] = (LOCAL, KUBERNETES)
    #: What it acts on: two faults at once act on different things.
    on: ClassVar[str] = "Redis"
    #: The docs promise less: the state loses what was written last.
    loses_state: ClassVar[bool] = False
    #: The docs allow another attempt at any job: its place is lost, not the job's process alone.
    moves_jobs: ClassVar[bool] = False

    def __init__(self, stage: Stage, planned: Planned) -> None:
        self.stage, self.planned = stage, planned
        self.random = random.Random(planned.draw)

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """Nothing, for a fault of a moment."""

    def repeats(self, envelopes: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Messages that are sent once more when the fault begins."""
        return []


class DispatcherKilled(Fault):
    name = "dispatcher killed"
    on = "dispatchers"

    def chosen(self) -> str:
        return self.random.choice(DISPATCHERS)

    def begin(self) -> None:
        self._which = self.chosen()
        self.stage.away.add(self._which)
        self.stage.dispatchers[self._which].container.kill("SIGKILL")

    def end(self) -> None:
        self.stage.away.discard(self._which)  # the stage starts it again


class LeaderKilled(DispatcherKilled):
    name = "leader killed"
    on = "dispatchers"

    def chosen(self) -> str:
        return self.stage.leader()


class BothKilled(Fault):
    name = "both dispatchers killed"
    on = "dispatchers"

    def begin(self) -> None:
        for name, node in self.stage.dispatchers.items():
            self.stage.away.add(name)
            node.container.kill("SIGKILL")

    def end(self) -> None:
        self.stage.away.clear()


class DispatcherAtStep(Fault):
    name = "dispatcher killed at a step"
    on = "steps"
    steps: ClassVar[list[str]] = list(OF_DISPATCHERS)

    def begin(self) -> None:
        self.stage.arm(self.random.choice(self.steps))

    def end(self) -> None:
        self.stage.disarm()


class ExecutorAtStep(DispatcherAtStep):
    name = "executor killed at a step"
    on = "steps"
    steps = list(OF_EXECUTORS)


class FinisherAtStep(DispatcherAtStep):
    name = "finisher killed at a step"
    on = "steps"
    steps = list(OF_FINISHERS)

    def begin(self) -> None:
        self.stage.arm("17 finish claimed, nothing written")  # gives it something to finish
        super().begin()


class ExecutorKilled(Fault):
    name = "executor killed while it runs"
    on = "executors"

    def begin(self) -> None:
        events = self.stage.events
        ended = {each["pid"] for each in events if each["event"] != "start"}
        running = [each for each in events if each["event"] == "start" and each["pid"] not in ended]
        if running:
            event = self.random.choice(running)
            self.stage.note_killed(event)
            try:
                os.kill(event["pid"], signal.SIGKILL)
            except ProcessLookupError:
                pass


class DispatcherStopped(Fault):
    """SIGSTOP for longer than its lease; then it goes on with what it knew."""

    name = "dispatcher stopped, then continued"
    on = "dispatchers"

    def begin(self) -> None:
        self._process = psutil.Process(self.stage.dispatchers[self.stage.leader()].pid)
        self._process.suspend()

    def end(self) -> None:
        try:
            self._process.resume()
        except psutil.NoSuchProcess:
            pass


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


class ClockOff(Fault):
    """The clock of a dispatcher, or of all executors, jumps by 90 s and back."""

    name = "a clock off by 90 s"
    on = "clocks"

    def begin(self) -> None:
        shifts = [0.0] * (len(DISPATCHERS) + 1)
        which = self.random.randrange(len(shifts))
        shifts[which] = self.random.choice((FAR, -FAR))
        self.stage.clocks(shifts)

    def end(self) -> None:
        self.stage.clocks([0.0] * (len(DISPATCHERS) + 1))


class MessagesRepeated(Fault):
    name = "messages sent twice"
    on = "messages"

    def begin(self) -> None:
        """The player sends what ``repeats`` answers."""

    def repeats(self, envelopes: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return envelopes + self.random.sample(envelopes, len(envelopes) // 2)


class ConnectionsCut(Fault):
    name = "connections to Redis cut"
    on = "network"

    def begin(self) -> None:
        self.stage.proxy.refuses = True
        self.stage.proxy.cut()

    def end(self) -> None:
        self.stage.proxy.refuses = False


class ConnectionsFrozen(Fault):
    """Packets are dropped, connections stay."""

    name = "connections to Redis frozen"
    on = "network"

    def begin(self) -> None:
        self.stage.proxy.freeze(True)

    def end(self) -> None:
        self.stage.proxy.freeze(False)


class AnswersLost(Fault):
    """Redis does what it is asked, and its answers are lost with the connections."""

    name = "answers of Redis lost"
    on = "network"

    def begin(self) -> None:
        self.stage.proxy.hold_answers(True)

    def end(self) -> None:
        self.stage.proxy.refuses = True
        self.stage.proxy.cut()
        self.stage.proxy.hold_answers(False)
        self.stage.proxy.refuses = False


class ConnectionsKilled(RedisTrouble):
    name = "no connections to Redis left"
    trouble = Connections


class ApiDown(Fault):
    name = "API server away"
    on = "API"
    launchers = (KUBERNETES,)

    def begin(self) -> None:
        self.stage.cluster.faults.front_down()

    def end(self) -> None:
        self.stage.cluster.faults.front_up()


class WatchesCut(Fault):
    name = "watches of the API server cut"
    on = "API"
    launchers = (KUBERNETES,)

    def begin(self) -> None:
        self.stage.cluster.faults.drop_watches(cut=True)
        self.stage.cluster.faults.compact()


class RequestsFail(Fault):
    name = "API server answers 500"
    on = "API"
    launchers = (KUBERNETES,)

    def begin(self) -> None:
        self.stage.cluster.faults.fail(500, times=self.random.randint(1, 8))

    def end(self) -> None:
        self.stage.cluster.faults.clear()


class PodEvicted(Fault):
    name = "pod evicted"
    on = "pods"
    launchers = (KUBERNETES,)
    moves_jobs = True

    def begin(self) -> None:
        pods = [
            each["metadata"]["name"]
            for each in self.stage.cluster.pods()
            if each.get("status", {}).get("phase") == "Running"
        ]
        if pods:
            self.stage.cluster.faults.evict(self.random.choice(pods))


def _all() -> list[type[Fault]]:
    found, classes = [], list(Fault.__subclasses__())
    while classes:
        kind = classes.pop(0)
        classes += kind.__subclasses__()
        if "name" in vars(kind):
            found.append(kind)
    return found


FAULTS: dict[str, type[Fault]] = {kind.name: kind for kind in _all()}


def kinds(launcher: str) -> dict[str, str]:
    """Return the kinds of faults that a launcher knows, and what each acts on."""
    return {name: kind.on for name, kind in FAULTS.items() if launcher in kind.launchers}
