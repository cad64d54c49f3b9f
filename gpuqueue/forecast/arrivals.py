"""Which jobs come next: those of late, mirrored in time, faster or slower."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from operator import itemgetter

from gpuqueue.forecast.run_times import RunTimes
from gpuqueue.forecast.snapshot import Snapshot, Waiting

#: How much faster or slower jobs may come than of late, as long as little is known of that: the
#: deviation of the logarithm. It counts as much as so many changes of pace that were seen: those
#: are of short times, and over a longer one the pace changes more.
SPREAD, CHANGES = 1.5, 4


@dataclass(frozen=True)
class Arrivals:
    """The arrivals of some time: (seconds since its begin, the job), in order."""

    jobs: Sequence[tuple[float, Waiting]]
    span: float
    new: Collection[str] = ()
    """Tenants that came first in that time: as many others will."""
    cut: bool = False
    """Whether jobs came before that time, too."""
    last: int = 0
    """The arrival given last: a counter."""
    gap: int = 1
    """From one arrival to the next: delayed jobs come between them."""
    own: str = ""
    """The tenant of the job that is asked about, if it came first in that time."""
    _coming: list[Waiting] = field(default_factory=list)

    @cached_property
    def stretch(self) -> int:
        """How many jobs make a stretch: about as many as there are stretches."""
        return max(1, math.isqrt(len(self.jobs)))

    @cached_property
    def spread(self) -> float:
        """How much the pace changes from one stretch to the next: the deviation of the logarithm of
        the time that each took.
        """
        ends = [when for when, _ in self.jobs[:: self.stretch]]
        took = [after - before for before, after in pairwise(ends)]
        took = [each for each in took if each > 0]
        changes = [math.log(new / old) ** 2 for old, new in pairwise(took)]
        known = math.fsum([CHANGES * SPREAD**2, *changes])
        return math.sqrt(known / (CHANGES + len(changes)))

    def again(self, now: float, back: int, pace: float) -> Iterator[tuple[float, Waiting]]:
        """Yield what comes from ``now`` on, ``pace`` times as fast as it came of late.

        In any time that follows, as many come as came in the same time before: the last jobs
        first, without the ``back`` last ones. If the time is ``cut``, they come without end. Those
        of the ``own`` tenant are left out where ``of_own`` tells them.
        """
        total = len(self.jobs)
        if total <= back or not self.span:
            return
        begin = self.jobs[-back][0] if back else self.span
        number = back
        while number < total or self.cut:
            rounds, place = divmod(number, total)
            ahead = begin - self.jobs[-1 - place][0] + rounds * self.span
            if self.jobs[-1 - place][1].tenant != self.own or not self._others:
                yield now + ahead / pace, self._job(number)
            number += 1

    def of_own(self, now: float, chance: random.Random) -> Iterator[tuple[float, Waiting]]:
        """Yield what the ``own`` tenant sends from ``now`` on: in each world, what another tenant
        that came in that time sent after one of its jobs, when it had sent about as many.
        """
        if not self._others:
            return
        at = chance.choice(self._others)
        begin, like = self.jobs[at]
        for number, (when, job) in enumerate(self.jobs[at + 1 :], 1):
            if job.tenant == like.tenant:
                arrival = self.last + number * self.gap
                name = f"+own+{number}"
                job = replace(job, delivery=name, tenant=self.own, arrival=arrival)
                yield now + when - begin, job

    @cached_property
    def _others(self) -> Sequence[int]:
        """Where the jobs are after which other tenants went on as the ``own`` one may: of tenants
        that came in that time, when they had sent about as many (up to twice as many). The older
        half of them, of which it is known for longer how they went on.
        """
        if not self.own:
            return ()
        sent: Counter[str] = Counter()
        places: dict[int, list[int]] = {}
        for at, (_, job) in enumerate(self.jobs):
            sent[job.tenant] += 1
            if job.tenant in self.new and job.tenant != self.own:
                places.setdefault(sent[job.tenant].bit_length(), []).append(at)
        about = [each for each in places if each <= sent[self.own].bit_length()]
        if not about:
            return ()
        found = places[max(about)]
        return found[: math.ceil(len(found) / 2)]

    def _job(self, number: int) -> Waiting:
        """Return a job that comes. It is the same one in each world."""
        for other in range(len(self._coming), number + 1):
            job = self.jobs[-1 - other % len(self.jobs)][1]
            tenant = f"+{job.tenant}" if job.tenant in self.new else job.tenant
            arrival = self.last + (other + 1) * self.gap
            job = replace(job, delivery=f"+{other + 1}", tenant=tenant, arrival=arrival)
            self._coming.append(job)
        return self._coming[number]


def recent(snapshot: Snapshot, known: RunTimes) -> Arrivals:
    """Return the arrivals since a time from which on all of them are known, of jobs whose run times
    are. Where some jobs in line were not read, those that were came so much faster.
    """
    live = [*snapshot.waiting, *(job for _, job in snapshot.delayed)]
    priorities = Counter(each.priority for each in live)
    priorities.update(each.priority for each in snapshot.held)
    usual = priorities.most_common(1)[0][0] if priorities else 0
    jobs = [(each.since, replace(each, expires=None)) for each in live]
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
    first = bisect_left(jobs, begin, key=itemgetter(0))
    earlier, jobs = jobs[:first], jobs[first:]
    speed = 1 + sum(snapshot.more.values()) / max(1, len(jobs))
    span = (snapshot.now - begin) / speed
    new = _new_tenants(snapshot, [job for _, job in earlier], [job for _, job in jobs])
    own = snapshot.asked.tenant if snapshot.asked else ""
    return Arrivals(
        [((when - begin) / speed, job) for when, job in jobs],
        span,
        new,
        known.cut,
        snapshot.arrivals,
        1 + len(snapshot.delayed),
        own if own in new else "",
    )


def _new_tenants(
    snapshot: Snapshot, earlier: Sequence[Waiting], jobs: Sequence[Waiting]
) -> set[str]:
    """Return the tenants that were known later than all of the jobs before some time, or than all
    of the first fifth of the jobs since then.
    """
    known = snapshot.tenants.known if snapshot.tenants else {}
    names = [job.tenant for job in [*earlier, *jobs[: math.ceil(len(jobs) / 5)]]]
    last = max((known[each].id for each in names if each in known), default=math.inf)
    return {
        job.tenant
        for job in jobs
        if job.tenant and job.tenant in known and known[job.tenant].id > last
    }
