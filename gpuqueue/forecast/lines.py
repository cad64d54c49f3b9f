"""The line of a class, by priority and arrival; lua/lib/line.lua decides."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from gpuqueue.forecast.snapshot import Held, Waiting
from gpuqueue.model.names import ISOLATIONS

#: What names a job in line that was not read.
UNREAD = "+unread+"
Place = tuple[int, int, str]


class Jobs:
    """Jobs of one isolation, in order. ``more``: how many follow that were not read."""

    __slots__ = ("_jobs", "_last", "more")

    def __init__(self, more: int = 0) -> None:
        self.more = more
        self._jobs: list[tuple[Place, Waiting]] = []
        self._last: Place | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def copy(self) -> Jobs:
        """Return one that changes by itself."""
        new = Jobs(self.more)
        new._jobs, new._last = self._jobs.copy(), self._last
        return new

    def read(self, job: Waiting) -> None:
        """Add one that was read."""
        insort(self._jobs, (job.place, job))
        self._last = self._jobs[-1][0]

    def first(self, at: int = 0) -> Waiting | None:
        """Return the first, or a later one, if it was read."""
        return self._jobs[at][1] if at < len(self._jobs) else None

    def enter(self, job: Waiting) -> None:
        """Add one that comes. Behind those that were read, it counts as one of the others."""
        if self.more and (self._last is None or job.place > self._last):
            self.more += 1
        else:
            insort(self._jobs, (job.place, job))

    def leave(self, job: Waiting) -> bool:
        """Take one out. The first one that was not read is taken to be like the last. Returns
        whether it was there: one that counts as one of the others may have been taken for one.
        """
        at = bisect_left(self._jobs, (job.place,))
        if at == len(self._jobs) or self._jobs[at][0] != job.place:
            self.more, before = max(0, self.more - 1), self.more
            return before > 0
        del self._jobs[at]
        if self.more and not self._jobs:
            self.more -= 1
            name = f"{job.delivery.partition(UNREAD)[0]}{UNREAD}{self.more}"
            self.read(replace(job, delivery=name, arrival=job.arrival + 1))
        return True


class Line(Protocol):
    """Who is first, and what changes that."""

    dry: bool
    """Whether it has come to tenants that were not read: who is first is not known any more."""
    by_tenants: bool

    def copy(self) -> Line: ...

    def keep(self, now: float) -> None:
        """Bring it up to date before a decision."""

    def first(self, isolation: str) -> Waiting | None: ...

    def behind(self, isolation: str, most: int) -> list[tuple[Waiting, Any]]:
        """Return the jobs behind the first one that were read, in order, at most so many; each with
        its front, for ``before``.
        """

    def before(self, passing: Any = None) -> str | None:
        """The isolation that goes first of two that could start a job; None: by place.
        ``passing``: the front of an exclusive job that starts before the first one.
        """

    def keep_turn(self, job: Waiting) -> None:
        """The first exclusive job, which needs several GPUs and must wait, stays first."""

    def hides(self, isolation: str) -> bool:
        """Whether jobs of an isolation wait, although none may be next."""

    def total(self, isolation: str) -> int: ...

    def enter(self, job: Waiting, now: float) -> None: ...

    def leave(self, job: Waiting, now: float) -> None:
        """Take one out."""

    def started(self, job: Waiting, held: Held, now: float) -> None: ...

    def ended(self, held: Held, now: float) -> None: ...


class ByArrival:
    """The line of a class without tenants."""

    by_tenants = False

    def __init__(self, waiting: Iterable[Waiting], more: Mapping[str, int]) -> None:
        self.dry = False
        self._jobs = {each: Jobs(more.get(each, 0)) for each in ISOLATIONS}
        for job in waiting:
            self._jobs[job.isolation].read(job)

    def copy(self) -> ByArrival:
        """Return one that changes by itself."""
        new = object.__new__(ByArrival)
        new.dry, new._jobs = self.dry, {each: jobs.copy() for each, jobs in self._jobs.items()}
        return new

    def keep(self, now: float) -> None:
        """Nothing in it depends on time."""

    def first(self, isolation: str) -> Waiting | None:
        """Return the first job of an isolation."""
        return self._jobs[isolation].first()

    def behind(self, isolation: str, most: int) -> list[tuple[Waiting, Any]]:
        """By place."""
        jobs = (self._jobs[isolation].first(at) for at in range(1, most + 1))
        return [(job, None) for job in jobs if job]

    def before(self, passing: Any = None) -> str | None:
        """The place decides."""
        return None

    def keep_turn(self, job: Waiting) -> None:
        """It stays first by its place."""

    def hides(self, isolation: str) -> bool:
        """No job waits for another reason than its place."""
        return False

    def total(self, isolation: str) -> int:
        """Return how many jobs of an isolation wait."""
        return len(self._jobs[isolation]) + self._jobs[isolation].more

    def enter(self, job: Waiting, now: float) -> None:
        """Put a job into line."""
        self._jobs[job.isolation].enter(job)

    def leave(self, job: Waiting, now: float) -> None:
        """Take one out."""
        self._jobs[job.isolation].leave(job)

    def started(self, job: Waiting, held: Held, now: float) -> None:
        """Nothing depends on who has started."""

    def ended(self, held: Held, now: float) -> None:
        """Nothing depends on who runs."""
