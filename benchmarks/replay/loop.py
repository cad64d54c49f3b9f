"""The simulated time: arrivals, ends, ticks, and how jobs that share a GPU slow one another.

Pure.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

from benchmarks.replay.traces import CHARGE, Job, Shape


class Start(NamedTuple):
    """A job starts on a GPU."""

    number: int
    gpu: int


class Scheduler(Protocol):
    """Decides what starts. It is told arrivals and ends in the order of time, and answers what
    starts now. With a ``tick``, in seconds, the loop asks it at multiples of that instead.
    ``whole``: all GPUs are one domain; otherwise each GPU is one.
    """

    label: str
    tick: float
    whole: bool

    def arrive(self, job: Job, now: float) -> list[Start]: ...

    def end(self, job: Job, now: float) -> list[Start]: ...

    def decide(self, now: float) -> list[Start]: ...


class BrokenRule(AssertionError):
    """A schedule mixed isolations on a GPU, took more than its slots, or forgot a job."""


@dataclass(slots=True)
class Run:
    """What became of one job."""

    start: float = -1.0
    end: float = -1.0
    gpu: int = -1
    lane: int = 0
    """Its slot of the GPU; 0 for an exclusive job, which has all of them."""


@dataclass(slots=True)
class _Gpu:
    slots: int
    charged: bool
    left: dict[int, float] = field(default_factory=dict)
    """Job → seconds that it would still need alone."""
    exclusive: int | None = None
    since: float = 0.0
    version: int = 0
    """Grows with each change: an end that was planned before is void."""

    def _rate(self) -> float:
        return 1 / (CHARGE * len(self.left)) if self.charged and len(self.left) > 1 else 1.0

    def settle(self, now: float) -> None:
        done = (now - self.since) * self._rate()
        for number in self.left:
            self.left[number] -= done
        self.since = now
        self.version += 1

    def next_end(self) -> tuple[float, int]:
        number = min(self.left, key=self.left.__getitem__)
        return self.since + max(0.0, self.left[number]) / self._rate(), number

    def take(self, job: Job, now: float) -> None:
        if self.exclusive is not None or (self.left and not job.shares):
            raise BrokenRule(f"job {job.number} ({job.isolation}) starts beside {[*self.left]}")
        if len(self.left) >= self.slots:
            raise BrokenRule(f"job {job.number} starts on a GPU whose {self.slots} slots are taken")
        self.settle(now)
        self.left[job.number] = job.duration
        self.exclusive = None if job.shares else job.number

    def free(self, number: int, now: float) -> None:
        self.settle(now)
        del self.left[number]
        self.exclusive = None


class Event(IntEnum):
    """What happens, in the order of events at one moment; a start follows from another event."""

    END = 0
    ARRIVAL = 1
    TICK = 2
    START = 3


class Played(NamedTuple):
    """A schedule: the run of each job, by its number, and what happened in its exact order, with
    the number of the job.
    """

    runs: list[Run]
    log: list[tuple[Event, int]]


def play(jobs: Sequence[Job], scheduler: Scheduler, shape: Shape, *, charged: bool) -> Played:
    """Play a trace. At one moment, ends come before arrivals, and those before the tick.

    Raises :class:`BrokenRule`.
    """
    runs = [Run() for _ in jobs]
    log: list[tuple[Event, int]] = []
    gpus = [_Gpu(shape.slots, charged) for _ in range(shape.gpus)]
    lanes = [set(range(shape.slots)) for _ in gpus]
    events: list[tuple[float, int, int, int]] = [
        (job.arrival, Event.ARRIVAL, job.number, 0) for job in jobs
    ]
    heapq.heapify(events)
    ticks: set[float] = set()

    def plan(gpu: int) -> None:
        if gpus[gpu].left:
            heapq.heappush(events, (gpus[gpu].next_end()[0], Event.END, gpu, gpus[gpu].version))

    def begin(starts: list[Start], now: float) -> None:
        for number, gpu in starts:
            if runs[number].start >= 0 or jobs[number].arrival > now:
                raise BrokenRule(f"job {number} starts twice, or before it arrives")
            gpus[gpu].take(jobs[number], now)
            runs[number].start, runs[number].gpu = now, gpu
            runs[number].lane = min(lanes[gpu])
            lanes[gpu].remove(runs[number].lane)
            log.append((Event.START, number))
        for gpu in {gpu for _, gpu in starts}:
            plan(gpu)

    while events:
        now, kind, which, version = heapq.heappop(events)
        if kind == Event.ARRIVAL:
            log.append((Event.ARRIVAL, which))
            starts = scheduler.arrive(jobs[which], now)
        elif kind == Event.TICK:
            starts = scheduler.decide(now)
        elif version != gpus[which].version:
            continue
        else:
            _, number = gpus[which].next_end()
            gpus[which].free(number, now)
            runs[number].end = now
            log.append((Event.END, number))
            lanes[which].add(runs[number].lane)
            plan(which)
            starts = scheduler.end(jobs[number], now)
        begin(starts, now)
        if scheduler.tick and kind != Event.TICK:
            due = math.ceil(now / scheduler.tick) * scheduler.tick
            if due not in ticks:
                ticks.add(due)
                heapq.heappush(events, (due, Event.TICK, 0, 0))
    if any(run.end < 0 for run in runs):
        raise BrokenRule(f"{sum(run.end < 0 for run in runs)} jobs have never ended")
    return Played(runs, log)
