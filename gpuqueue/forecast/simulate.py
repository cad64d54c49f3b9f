"""Run a class on until a job starts, many times, each in another possible world."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from operator import itemgetter
from statistics import NormalDist

from gpuqueue.forecast.arrivals import recent
from gpuqueue.forecast.run_times import Draws, NotKnown, RunTimes
from gpuqueue.forecast.snapshot import Held, Snapshot, Waiting
from gpuqueue.forecast.twin import Twin
from gpuqueue.model.names import EXCLUSIVE, SHARED

#: How many worlds there are, at most and at least; how many starts and arrivals one of them may
#: have, and all: that bounds the time of an answer.
RUNS, LEAST_RUNS, STEPS_OF_ONE, STEPS = 60, 19, 3000, 20_000
#: The part of the starts that a range holds.
HOLDS = 0.8
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Starts:
    """When a job starts in each world, in seconds from now, in order.

    ``beyond``: up to when the others were simulated, in which it starts later; in order.
    ``unknown``: the task whose run times are not known, so that no start is.
    """

    seconds: Sequence[float]
    beyond: Sequence[float] = ()
    unknown: str | None = None

    def earliest(self, part: float = HOLDS) -> float | None:
        """Return the begin of the range that holds a part of the starts; None: nothing is known."""
        return _at(sorted((*self.seconds, *self.beyond)), (1 - part) / 2)

    def latest(self, part: float = HOLDS) -> float | None:
        """Return the end of that range; None: it is later than was simulated."""
        found = _at((*self.seconds, *(math.inf for _ in self.beyond)), (1 + part) / 2)
        return None if found is None or math.isinf(found) else found


def _at(values: Sequence[float], part: float) -> float | None:
    """Return the value below which another one lies in a part of all cases."""
    if not values:
        return None
    place = min(max(part * (len(values) + 1) - 1, 0), len(values) - 1)
    low, high = values[math.floor(place)], values[math.ceil(place)]
    return low if low == high else low + (high - low) * (place - math.floor(place))


def starts(snapshot: Snapshot, delivery: str, known: RunTimes) -> Starts:
    """Return when a waiting or delayed job starts. The same arguments give the same answer."""
    chance = random.Random(delivery)
    twin, arrivals = Twin(snapshot), recent(snapshot, known)
    found: list[float] = []
    beyond: list[float] = []
    steps = 0
    for number in range(RUNS):
        if number >= LEAST_RUNS and steps > STEPS:
            break
        try:
            pace = math.exp(arrivals.spread * _NORMAL.inv_cdf(_spread_out(number)))
            others = arrivals.again(snapshot.now, chance.randrange(arrivals.stretch), pace)
            own = arrivals.of_own(snapshot.now, chance)
            coming = heapq.merge(others, own, key=itemgetter(0))
            world = _World(snapshot, twin.copy(), Draws(known, chance), coming)
            when = world.run(delivery, STEPS_OF_ONE)
        except NotKnown as exc:
            return Starts((), unknown=str(exc))
        steps += world.steps
        if when is None:
            beyond.append(world.now - snapshot.now)
        else:
            found.append(when - snapshot.now)
    return Starts(sorted(found), sorted(beyond))


def _spread_out(number: int) -> float:
    """Return a number between 0 and 1. Any so many first ones are spread out evenly: van der
    Corput's sequence.
    """
    digits = f"{number + 1:b}"
    return int(digits[::-1], 2) / (1 << len(digits))


class _World:
    """One of them."""

    def __init__(
        self,
        snapshot: Snapshot,
        twin: Twin,
        draws: Draws,
        arrivals: Iterator[tuple[float, Waiting]],
    ) -> None:
        self.now, self.steps = snapshot.now, 0
        self._twin, self._draws, self._number = twin, draws, count()
        self._events: list[tuple[float, int, Held | Waiting]] = []
        for each in snapshot.held:
            self._plan(each, snapshot.now - each.since)
        for due, job in snapshot.delayed:
            self._push(due, job)
        self._arrivals = arrivals
        self._next_arrival()

    def run(self, delivery: str, most: int) -> float | None:
        """Return when a job starts; None: later than ``most`` starts and arrivals."""
        changes = True
        while True:
            for job, held in self._twin.admit(self.now) if changes else ():
                if job.delivery == delivery:
                    return self.now
                self._plan(held)
                self.steps += 1
            if self.steps >= most or self._twin.line.dry or not self._events:
                return None
            changes = self._step()

    def _step(self) -> bool:
        """Go on to what happens next. Returns whether a job may start then."""
        when, _, what = heapq.heappop(self._events)
        self.now = max(self.now, when)
        if isinstance(what, Held):
            self._twin.end(what.holder, self.now)
            return True
        self._twin.arrive(what, self.now)
        if what.delivery.startswith("+"):
            self.steps += 1
            self._next_arrival()
        return what.isolation == EXCLUSIVE or self._twin.has_room(SHARED)

    def _plan(self, held: Held, elapsed: float = 0.0) -> None:
        kind = (held.isolation, held.task, held.tenant)
        total = self._draws.seconds(kind, elapsed, held.time_limit)
        self._push(held.since + total, held)

    def _push(self, when: float, what: Held | Waiting) -> None:
        heapq.heappush(self._events, (when, next(self._number), what))

    def _next_arrival(self) -> None:
        for when, job in self._arrivals:
            self._push(when, job)
            return
