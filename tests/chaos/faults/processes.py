"""Faults of processes: killed, stopped, or with a wrong clock."""

from __future__ import annotations

import os
import signal
from typing import ClassVar

import psutil

from tests.chaos.faults.base import Fault
from tests.chaos.stage import DISPATCHERS
from tests.chaos.steps import OF_DISPATCHERS, OF_EXECUTORS, OF_FINISHERS, UNFINISHED

#: How far a clock is off, in seconds.
FAR = 90.0


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
        self.stage.arm(UNFINISHED)  # gives it something to finish
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
