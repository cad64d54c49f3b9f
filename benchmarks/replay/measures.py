"""What is measured of a schedule. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness import percentile
from benchmarks.replay.loop import Event, Played, Run
from benchmarks.replay.traces import Job, Shape, bound
from gpuqueue.model.names import EXCLUSIVE, SHARED


@dataclass(frozen=True, slots=True)
class Bypass:
    """How far jobs overtake."""

    before_drain: int
    """Later shared jobs that started, in any domain, while the same exclusive job was first in line
    and every domain with shared jobs still took more of them: the most of any exclusive job.
    gpuqueue promises at most K: then one domain takes no shared job more."""
    in_all: int
    """The same until it started, in all domains: those that do not drain go on."""
    row: int
    """Exclusive jobs that started in a row, in any domain, while shared jobs waited: the most."""


class _First:
    """The exclusive job that is first in line, from when it is that until it starts."""

    def __init__(self, number: int, shared: Mapping[int, int]) -> None:
        self.number = number
        self._overtakes = 0
        #: Domain with shared jobs → how many jobs had overtaken when it last took one.
        self._last = {domain: 0 for domain, count in shared.items() if count}

    def is_overtaken(self, domain: int) -> None:
        self._overtakes += 1
        self._last[domain] = self._overtakes

    @property
    def counts(self) -> tuple[int, int]:
        """Overtakes until a domain drained, and in all."""
        return min(self._last.values(), default=0), self._overtakes


def bypass(jobs: Sequence[Job], played: Played, *, whole: bool) -> Bypass:
    """Count who overtook whom; ``whole``: all GPUs are one domain."""
    waiting: dict[str, dict[int, None]] = {SHARED: {}, EXCLUSIVE: {}}
    shared: defaultdict[int, int] = defaultdict(int)
    first: _First | None = None
    drain, most, row, longest = 0, 0, 0, 0
    for event, number in played.log:
        job, domain = jobs[number], 0 if whole else played.runs[number].gpu
        if event == Event.ARRIVAL:
            waiting[job.isolation][number] = None
        elif event == Event.END:
            shared[domain] -= job.shares
        elif job.shares:
            row = 0
            shared[domain] += 1
            if first and number > first.number:
                first.is_overtaken(domain)
        else:
            row = row + 1 if waiting[SHARED] else 0
            longest = max(longest, row)
        if event == Event.START:
            del waiting[job.isolation][number]
            if first and number == first.number:
                drain, most = max(drain, first.counts[0]), max(most, first.counts[1])
                first = None
        if first is None and waiting[EXCLUSIVE]:
            first = _First(next(iter(waiting[EXCLUSIVE])), shared)
    return Bypass(drain, most, longest)


def jain(values: Iterable[float]) -> float:
    """Return Jain's index: 1 if all values are equal, 1/n if all but one of n are 0."""
    known = list(values)
    squares = sum(value * value for value in known)
    return sum(known) ** 2 / (len(known) * squares) if squares else 1.0


def speeds(jobs: Sequence[Job], runs: Sequence[Run]) -> dict[str, float]:
    """Return tenant → the mean share of the time from arrival to end in which its jobs ran. Jobs
    without a tenant count one by one.
    """
    of: defaultdict[str, list[float]] = defaultdict(list)
    for job, run in zip(jobs, runs, strict=True):
        of[job.tenant or str(job.number)].append((run.end - run.start) / (run.end - job.arrival))
    return {tenant: sum(each) / len(each) for tenant, each in of.items()}


def shares(jobs: Sequence[Job], runs: Sequence[Run], shape: Shape) -> dict[str, float]:
    """Return tenant → the GPU-seconds that it got while jobs of every tenant waited."""
    last: defaultdict[str, float] = defaultdict(float)
    for job, run in zip(jobs, runs, strict=True):
        last[job.tenant] = max(last[job.tenant], run.start)
    until = min(last.values())
    got = dict.fromkeys(last, 0.0)
    for job, run in zip(jobs, runs, strict=True):
        got[job.tenant] += max(0.0, min(run.end, until) - run.start) * weight(job, shape)
    return got


def weight(job: Job, shape: Shape) -> float:
    """Return the share of a GPU that the job holds."""
    return 1 / shape.slots if job.shares else 1.0


#: Measure → its unit, in the order of the report.
UNITS = {
    "makespan": "s",
    "makespan ÷ bound": "",
    "shared wait, mean": "s",
    "shared wait, p99": "s",
    "exclusive wait, mean": "s",
    "exclusive wait, p99": "s",
    "overtaken before a drain": "jobs",
    "overtaken in all": "jobs",
    "exclusive in a row": "jobs",
    "Jain index": "",
    "slots used": "",
}


def measure(
    jobs: Sequence[Job],
    played: Played,
    shape: Shape,
    *,
    charged: bool,
    whole: bool,
    by_share: bool = False,
) -> dict[str, float]:
    """Return all measures of :data:`UNITS`. The Jain index is of the tenants' :func:`speeds`, or
    ``by_share`` of their :func:`shares`.
    """
    runs = played.runs
    makespan = max(run.end for run in runs)
    waits: dict[str, list[float]] = {SHARED: [], EXCLUSIVE: []}
    held = 0.0
    for job, run in zip(jobs, runs, strict=True):
        waits[job.isolation].append(run.start - job.arrival)
        held += (run.end - run.start) * weight(job, shape)
    passed = bypass(jobs, played, whole=whole)
    fair = shares(jobs, runs, shape) if by_share else speeds(jobs, runs)
    values = [makespan, makespan / bound(jobs, shape, charged=charged)]
    for isolation in (SHARED, EXCLUSIVE):
        known = waits[isolation] or [0.0]
        values += [sum(known) / len(known), percentile(known, 0.99)]
    values += [passed.before_drain, passed.in_all, passed.row]
    values += [jain(fair.values()), held / shape.gpus / makespan]
    return dict(zip(UNITS, values, strict=True))
