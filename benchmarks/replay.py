"""How long jobs wait in the replay of a real workload, and whether the promise holds throughout.

Measured: the first jobs of a trace of short GPU jobs (columns arrival_s, duration_s), one in five
made exclusive by a fixed seed, on one GPU with 8 shared slots or 1 exclusive slot, with the real
scripts on a real Redis and a simulated clock: the replay does not sleep. Arrivals are stretched or
compressed so that the offered work (exclusive seconds + shared seconds ÷ 8) is 60 % of the time.
Peers, with the same events: strict order (a job that cannot start blocks all behind it), greedy
(any job that can start does, so an exclusive job starts only if the GPU happens to be idle), and
gpuqueue with K = 32 instead of 8. Once as recorded, and once with the durations of shared jobs
multiplied by 1.11 × N if N jobs share the GPU at their start, a model of jobs that slow each other
down. Aim: no more than 8 later shared jobs overtake an exclusive job while it is first in line, and
shared and exclusive jobs never run together.

The trace is not part of the project: BENCH_TRACES names the directory of ``genai_short.csv``.
Without it, nothing is measured.
"""

from __future__ import annotations

import csv
import heapq
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.harness import Figure, Sample, Size, percentile
from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.line import Line
from tests.support.model_time import Timed, model_time

SLOTS, LOAD, CHARGE = 8, 0.6, 1.11
#: K: the default, and a larger value for comparison.
PATIENCE, LARGER = 8, 32


@dataclass(slots=True)
class Replayed:
    """One job of the trace; ``number`` is its position of arrival, times are in seconds."""

    number: int
    arrival: float
    duration: float
    isolation: str
    started: float = -1.0


class Queue(Protocol):
    """A scheduler: gets arrivals and ends, and returns the jobs that start now."""

    def arrive(self, job: Replayed, now: float) -> list[int]: ...

    def end(self, job: Replayed, now: float) -> list[int]: ...


class Ours(Timed):
    """The scripts of gpuqueue, with a simulated clock (see ``model_time``)."""

    def __init__(self, stage: Stage, name: str, patience: int = PATIENCE) -> None:
        self.client = stage.client
        self.now = 0.0
        self._class = GpuClass(
            name, shared_slots=SLOTS, exclusive_slots=1, exclusive_patience=patience
        )
        self._line = Line(stage.client, by="replay")
        self._line.open(name)

    def arrive(self, job: Replayed, now: float) -> list[int]:
        self.now = now
        name, gpu_class = str(job.number), self._class.name
        record: Record = {
            "delivery": name,
            "id": name,
            "isolation": job.isolation,
            "gpu_class": gpu_class,
        }
        return self._start(self._line.take_in(self._class, record, "{}").granted)

    def end(self, job: Replayed, now: float) -> list[int]:
        self.now = now
        return self._start(
            self._line.release(
                self._class, Attempt(self._class.name, str(job.number), 1), instance="replay:1:1"
            ).granted
        )

    def _start(self, granted: list[Record]) -> list[int]:
        for record in granted:
            executor = ExecutorAttempt(self.client, Attempt.of(record), record["token"])
            executor.claim("replay:1:1", "replay")
            executor.report("SUCCEEDED")  # it keeps its slot until the release
            executor.reported(60)
        return [int(record["delivery"]) for record in granted]


class Peer:
    """Strict or greedy order, over the same slots and the same exclusivity."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._waiting: list[Replayed] = []
        self._running = {SHARED: 0, EXCLUSIVE: 0}

    def arrive(self, job: Replayed, now: float) -> list[int]:
        self._waiting.append(job)
        return self._start()

    def end(self, job: Replayed, now: float) -> list[int]:
        self._running[job.isolation] -= 1
        return self._start()

    def _start(self) -> list[int]:
        started: list[int] = []
        left: list[Replayed] = []
        for job in self._waiting:
            free = not self._running[EXCLUSIVE] and self._running[SHARED] < (
                SLOTS if job.isolation == SHARED else 1
            )
            if free and not (self._strict and left):
                self._running[job.isolation] += 1
                started.append(job.number)
            else:
                left.append(job)
        self._waiting = left
        return started


def replay(jobs: list[Replayed], queue: Queue, *, charged: bool) -> tuple[list[Replayed], int, int]:
    """Play the events; return the jobs with their starts, the maximum number of later shared jobs
    ahead of a first exclusive job, and the number of mixes.
    """
    done = [Replayed(job.number, job.arrival, job.duration, job.isolation) for job in jobs]
    events = [(job.arrival, 1, job.number) for job in done]
    heapq.heapify(events)
    running: dict[str, set[int]] = {SHARED: set(), EXCLUSIVE: set()}
    waiting: list[int] = []
    overtaken, most, mixes = 0, 0, 0
    while events:
        now, arrives, number = heapq.heappop(events)
        job = done[number]
        if arrives:
            if job.isolation == EXCLUSIVE:
                waiting.append(number)
            starts = queue.arrive(job, now)
        else:
            running[job.isolation].discard(number)
            starts = queue.end(job, now)
        for each in starts:
            other = done[each]
            other.started = now
            running[other.isolation].add(each)
            mixes += bool(running[SHARED] and running[EXCLUSIVE])
            if other.isolation == EXCLUSIVE:
                waiting.remove(each)
                overtaken = 0
            elif waiting and each > waiting[0]:
                overtaken += 1
                most = max(most, overtaken)
            slow = (
                max(1.0, CHARGE * len(running[SHARED]))
                if charged and other.isolation == SHARED
                else 1.0
            )
            heapq.heappush(events, (now + other.duration * slow, 0, each))
    assert all(job.started >= 0 for job in done), "every job of the trace has started"
    return done, most, mixes


def load(path: Path, count: int) -> list[Replayed]:
    """Read the first jobs of a trace, and scale the offered work to :data:`LOAD`."""
    chance = random.Random(1)
    with path.open() as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(count), strict=False)]
    kinds = [EXCLUSIVE if chance.random() < 0.2 else SHARED for _ in rows]
    durations = [float(row["duration_s"]) for row in rows]
    work = sum(
        each / (SLOTS if kind == SHARED else 1) for each, kind in zip(durations, kinds, strict=True)
    )
    begin = float(rows[0]["arrival_s"])
    stretch = work / LOAD / (float(rows[-1]["arrival_s"]) - begin)
    arrivals = [(float(row["arrival_s"]) - begin) * stretch for row in rows]
    return [
        Replayed(number, *each)
        for number, each in enumerate(zip(arrivals, durations, kinds, strict=True))
    ]


def run(size: Size) -> list[Figure]:
    """Measure it."""
    folder = os.environ.get("BENCH_TRACES")
    if not folder:
        return []
    jobs = load(Path(folder) / "genai_short.csv", size.of(3000, 300))
    figures: list[Figure] = []
    with Stage() as stage, model_time():
        for charged, how in ((False, "as recorded"), (True, "charged 1.11 × N")):
            queues: dict[str, Queue] = {
                "gpuqueue": Ours(stage, f"replay-{charged:d}"),
                f"gpuqueue, K = {LARGER}": Ours(stage, f"replay-{charged:d}-larger", LARGER),
                "strict order": Peer(strict=True),
                "greed": Peer(strict=False),
            }
            played = {
                label: replay(jobs, queue, charged=charged) for label, queue in queues.items()
            }
            for isolation in (SHARED, EXCLUSIVE):
                for share in (0.5, 0.99):
                    ours, *peers = (
                        _waits(label, done, isolation, share)
                        for label, (done, _, _) in played.items()
                    )
                    figures.append(
                        Figure(
                            f"wait of {isolation} jobs, p{share * 100:g}, {how}",
                            "s",
                            ours,
                            tuple(peers),
                        )
                    )
            ours, *peers = (Sample(label, (float(most),)) for label, (_, most, _) in played.items())
            kept = ours.middle <= PATIENCE and not played["gpuqueue"][2]
            aim = f"≤ {PATIENCE}, no mix"
            figures.append(
                Figure(
                    f"later shared jobs ahead, most, {how}",
                    "jobs",
                    ours,
                    tuple(peers),
                    aim=aim,
                    met=kept,
                )
            )
    return figures


def _waits(label: str, done: list[Replayed], isolation: str, share: float) -> Sample:
    return Sample(
        label,
        (
            percentile(
                [job.started - job.arrival for job in done if job.isolation == isolation], share
            ),
        ),
    )
