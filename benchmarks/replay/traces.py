"""The jobs to replay: a recorded trace, or a synthetic one made from a seed. Pure but for reading
the files of traces.
"""

from __future__ import annotations

import csv
import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from benchmarks.harness import percentile
from gpuqueue.model.names import EXCLUSIVE, SHARED

#: How much longer each of N jobs takes that share a GPU: 1.11 × N. A job alone is not slowed down.
CHARGE = 1.11
#: The most jobs of a synthetic trace.
SYNTHETIC = 1_200
T4, GENAI = "t4_openb.csv", "genai_short.csv"


@dataclass(frozen=True, slots=True)
class Shape:
    """The GPUs that jobs are replayed on."""

    gpus: int = 4
    slots: int = 4
    """Shared jobs of one GPU at once; an exclusive job takes the whole GPU."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a trace. ``number`` is its position of arrival; times are in seconds, and
    ``duration`` is its run time alone on a GPU. ``tenant`` is empty if the trace names no users.
    """

    number: int
    arrival: float
    duration: float
    isolation: str
    tenant: str

    @property
    def shares(self) -> bool:
        """Whether others may run on its GPU."""
        return self.isolation == SHARED

    def work(self, shape: Shape, *, charged: bool) -> float:
        """Return the least seconds of a whole GPU that it needs. ``charged``: jobs slow one
        another, so that it needs least alone.
        """
        return self.duration / (shape.slots if self.shares and not charged else 1)


#: A row of a trace: arrival, duration, isolation or '', user or ''.
Row = tuple[float, float, str, str]


def read(folder: Path | None, name: str, most: int) -> list[Row]:
    """Return the first rows of a trace. Without a folder, or without the file in it, return a
    synthetic trace of the same kind.

    Raises ValueError if the file lacks a column or has a value that is no number.
    """
    path = folder / name if folder else None
    if path is None or not path.exists():
        return synthetic(name, min(most, SYNTHETIC))
    found: list[Row] = []
    with path.open() as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            if len(found) == most:
                break
            try:
                times = float(row["arrival_s"]), float(row["duration_s"])
            except (KeyError, TypeError, ValueError) as exc:
                raise ValueError(
                    f"{name}, line {line}: {exc!r}; a trace has the columns arrival_s and"
                    " duration_s, in seconds"
                ) from exc
            found.append((*times, row.get("mode") or "", row.get("user") or ""))
    return sorted(found, key=lambda each: each[0])


def synthetic(name: str, most: int, seed: int = 14) -> list[Row]:
    """Make rows like those of a trace: durations of a long tail, bursts of arrivals, and users of
    whom a few send most.
    """
    chance, now = random.Random(seed), 0.0
    rows: list[Row] = []
    days = name == T4
    for _ in range(most):
        now += chance.expovariate(1 / (600 if days else 9)) if chance.random() < 0.3 else 0.0
        mean, spread, longest = (6.4, 1.6, 86_400) if days else (3.1, 0.7, 600)
        duration = min(longest, max(1.0, chance.lognormvariate(mean, spread)))
        mode = (EXCLUSIVE if chance.random() < 0.56 else SHARED) if days else ""
        user = "" if days else f"u{int(chance.paretovariate(0.8))}"
        rows.append((now, float(round(duration)), mode, user))
    return rows


def jobs_of(rows: Sequence[Row], *, exclusive: float = 0.0) -> list[Job]:
    """Return the rows as jobs. Where the trace names no isolation, a fixed seed makes the share
    ``exclusive`` of them exclusive. Their users are their tenants.
    """
    chance = random.Random(1)
    begin = rows[0][0] if rows else 0.0
    return [
        Job(
            number,
            arrival - begin,
            max(duration, 0.001),
            isolation or (EXCLUSIVE if chance.random() < exclusive else SHARED),
            user,
        )
        for number, (arrival, duration, isolation, user) in enumerate(rows)
    ]


def alone(jobs: Sequence[Job], shape: Shape) -> float:
    """Return the p99 wait in seconds of a batch of exclusive jobs, one after the other in order of
    arrival, if there were no shared jobs: no order of arrival with them has a shorter one.
    """
    free, waits = [0.0] * shape.gpus, []
    for job in (each for each in jobs if not each.shares):
        start = heapq.heappop(free)
        waits.append(start)
        heapq.heappush(free, start + job.duration)
    return percentile(waits, 0.99)


def as_batch(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs as if all arrived at 0, in their order."""
    return [replace(job, arrival=0.0) for job in jobs]


def in_blocks(jobs: Sequence[Job], tenants: int) -> list[Job]:
    """Return the jobs as a batch of tenants with as many jobs each, one tenant after the other."""
    return [
        replace(job, arrival=0.0, tenant=f"tenant-{job.number * tenants // len(jobs)}")
        for job in jobs
    ]


def compressed(jobs: Sequence[Job], shape: Shape, load: float, *, charged: bool) -> list[Job]:
    """Return the jobs with arrivals scaled so that the offered work is ``load`` of what the GPUs
    can do between the first and the last arrival, with their slots in use.
    """
    slowed = CHARGE if charged and shape.slots > 1 else 1.0
    work = sum(job.work(shape, charged=charged) * (slowed if job.shares else 1.0) for job in jobs)
    span = jobs[-1].arrival or 1.0
    factor = work / shape.gpus / load / span
    return [replace(job, arrival=job.arrival * factor) for job in jobs]


def bound(jobs: Sequence[Job], shape: Shape, *, charged: bool) -> float:
    """Return a time before which no schedule ends: no job ends before its arrival and duration, and
    the work that arrives from any moment on is done after it, on all GPUs at their best.

    ``charged``: a GPU does most for jobs that run one by one, so each counts as alone.
    """
    late = sorted(jobs, key=lambda job: job.arrival, reverse=True)
    work = accumulate(job.work(shape, charged=charged) for job in late)
    of_work = (job.arrival + done / shape.gpus for job, done in zip(late, work, strict=True))
    return max(*(job.arrival + job.duration for job in jobs), *of_work, 0.0)
