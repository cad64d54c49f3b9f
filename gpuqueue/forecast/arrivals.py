"""Which jobs come next: those of the recent past come again, from some moment of it on."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from gpuqueue.forecast.run_times import RunTimes
from gpuqueue.forecast.snapshot import Snapshot, Waiting

#: How much faster or slower jobs may come than of late: the deviation of the logarithm.
SPREAD = 1.0


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The arrivals of some time: (seconds since its begin, the job), in order."""

    jobs: Sequence[tuple[float, Waiting]]
    span: float
    new: Collection[str] = ()
    """Tenants that came first in that time: as many others will."""

    def again(self, chance: random.Random, now: float) -> Iterator[tuple[float, Waiting]]:
        """Yield arrivals from ``now`` on, each of them once: they say nothing of a longer time."""
        start, pace = chance.random() * self.span, chance.lognormvariate(0, SPREAD)
        first = bisect_left(self.jobs, start, key=itemgetter(0))
        for number in range(len(self.jobs)):
            place = (first + number) % len(self.jobs)
            when, job = self.jobs[place]
            ahead = when - start + (self.span if place < first else 0.0)
            tenant = f"+{job.tenant}" if job.tenant in self.new else job.tenant
            yield now + ahead / pace, replace(job, delivery=f"+{number + 1}", tenant=tenant)


def recent(snapshot: Snapshot, known: RunTimes) -> Arrivals:
    """Return the arrivals since a time from which on all of them are known, of jobs whose run times
    are. Where some jobs in line were not read, those that were came so much faster.
    """
    live = [*snapshot.waiting, *(job for _, job in snapshot.delayed)]
    priorities = Counter(each.priority for each in live)
    priorities.update(each.priority for each in snapshot.held)
    usual = priorities.most_common(1)[0][0] if priorities else 0
    jobs = [(each.since, replace(each, arrival=0, expires=None)) for each in live]
    jobs += [
        (
            each.accepted,
            Waiting("", each.isolation, each.priority, 0, each.tenant, each.task, each.time_limit),
        )
        for each in snapshot.held
    ]
    jobs += [
        (each.accepted, Waiting("", each.isolation, usual, 0, each.tenant, each.task))
        for each in known.past
        if each.first
    ]
    jobs = sorted((each for each in jobs if each[0] > 0 and known.has(each[1])), key=itemgetter(0))
    if not jobs:
        return Arrivals((), 0.0)
    begin = known.past[0].stop if known.cut and known.past else jobs[0][0]
    jobs = jobs[bisect_left(jobs, begin, key=itemgetter(0)) :]
    speed = 1 + sum(snapshot.more.values()) / max(1, len(jobs))
    span = (snapshot.now - begin) / speed
    found = [((when - begin) / speed, job) for when, job in jobs]
    return Arrivals(found, span, _new_tenants(snapshot, found, span))


def _new_tenants(
    snapshot: Snapshot, jobs: Sequence[tuple[float, Waiting]], span: float
) -> set[str]:
    """Return the tenants that were known later than all of the first fifth of a time."""
    known = snapshot.tenants.known if snapshot.tenants else {}
    numbers = [
        (when, known[job.tenant].id, job.tenant) for when, job in jobs if job.tenant in known
    ]
    last = max((number for when, number, _ in numbers if when < span / 5), default=math.inf)
    return {name for _, number, name in numbers if number > last and name}
