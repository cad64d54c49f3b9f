"""A class whose Redis comes back with an older state, and the processes that run on meanwhile."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.repair import Repair
from gpuqueue.dispatcher.slots import Slots
from gpuqueue.dispatcher.suspects import Suspects
from gpuqueue.errors import StaleAttempt
from gpuqueue.launchers.base import Launcher
from gpuqueue.model.attempt import Attempt, LiveAttempt, RunningAttempt
from gpuqueue.model.ends import End, explain
from gpuqueue.model.names import EXCLUSIVE
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.property.looks import Looks
from tests.support.model_time import KEY, Timed

T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1)
#: Seconds of a turn of the watcher: longer than any pause of Repair.
TURN = 6.0
KEEP = 1000.0


class Process:
    """An executor that runs on, with any state of Redis."""

    def __init__(self, redis_: redis.Redis, record: Record, instance: str) -> None:
        self.record, self.instance = record, instance
        self.executor = ExecutorAttempt(redis_, Attempt.of(record), record["token"])
        self.written = False

    @property
    def live(self) -> LiveAttempt:
        return LiveAttempt.of(self.record, self.instance)


class Machine:
    """Starts and stops processes, as a launcher does, and lists those that live."""

    owner = ""
    claim_within = 60.0
    unknown: Collection[str] = ()

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.started: list[Process] = []
        self.living: list[Process] = []
        self.stopped: list[str] = []

    def start(self, record: Record) -> Process:
        made = Process(self.client, record, f"h:{len(self.started)}:1")
        self.started.append(made)
        self.living.append(made)
        return made

    def of(self, delivery: str) -> list[Process]:
        return [each for each in self.living if each.record["delivery"] == delivery]

    def list(self) -> list[LiveAttempt]:
        return [each.live for each in self.living]

    def stop(self, instance: str, signal: str) -> bool:
        self.stopped.append(instance)
        self.living = [each for each in self.living if each.instance != instance]
        return True

    def end_of(self, instance: str) -> End | None:
        return None if any(each.instance == instance for each in self.living) else explain(None)

    def abandon(self, record: Record) -> bool:
        return True

    def watch(self, running: RunningAttempt) -> None:
        """Do nothing: a turn finds the end."""


class OlderState(Timed, Looks):
    """One class, its machine, and the repair of its leader."""

    def __init__(self, client: redis.Redis) -> None:
        client.flushdb()
        self.client = client
        self.now = 1_000_000.0
        self.line = Line(client, keep=KEEP)
        self.line.open("t4")
        self.reader = Reader(client)
        self.machine = Machine(client)
        self.repair = Repair(
            client,
            self.line,
            self.reader,
            {"t4": T4},
            cast(Launcher, self.machine),
            cast(Slots, self),
            abandoned_after=2.0,
            relist=1.0,
            suspects=Suspects(lambda: self.now),
        )

    # -- what a dispatcher does --------------------------------------------------------------------

    def submit(self, name: str, isolation: str = EXCLUSIVE, **more: Any) -> list[Record]:
        record: Any = {"delivery": name, "id": name.partition("~")[0], "isolation": isolation}
        record |= {"gpu_class": "t4", "task": "t", "retries": int(name.partition("~")[2] or 0)}
        return self.line.take_in(T4, record | more, "{}").granted

    def launch(self, granted: list[Record]) -> list[Process]:
        """Start and confirm what may start."""
        started = [self.machine.start(record) for record in granted]
        for process in started:
            self.line.launched(Attempt.of(process.record), process.instance, 60.0)
        return started

    def relaunch(self, record: Record) -> None:
        """See Slots: Repair calls it."""
        self.launch([record])

    def on_end(self, running: RunningAttempt, end: End) -> bool:
        """See Slots: Repair calls it."""
        released = self.line.release(T4, running.attempt, end, running.instance)
        self.launch(released.granted)
        return released.freed

    def ends(self, process: Process, code: int | None = 0) -> None:
        """A process ends, and its dispatcher sees that."""
        self.machine.living.remove(process)
        self.on_end(process.live.running, explain(code))

    def admit(self) -> None:
        self.launch(self.line.admit(T4))

    def look(self, turns: int = 1) -> None:
        """Repair as often, with the time of a turn between."""
        for _ in range(turns):
            self.repair.run(self.now)
            self.now += TURN

    # -- Redis -------------------------------------------------------------------------------------

    def keep(self) -> dict[str, bytes]:
        """Return the whole state."""
        names = [key for key in self.client.scan_iter() if key != KEY]
        return {key: cast(bytes, self.client.dump(key)) for key in names}

    def come_back_with(self, state: dict[str, bytes]) -> None:
        """Replace the state by an older one. Processes and time go on."""
        for key in self.client.scan_iter():
            if key != KEY:
                self.client.delete(key)
        for key, value in state.items():
            self.client.restore(key, 0, value)

    # -- looks -------------------------------------------------------------------------------------


def finish(process: Process) -> bool:
    """Report and write a result; return whether that was accepted."""
    try:
        process.executor.report("SUCCEEDED")
    except StaleAttempt:
        return False
    process.written = True
    return process.executor.reported(KEEP)
