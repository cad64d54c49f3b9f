"""How long jobs hold their slots, and which jobs come: drawn from those of late.

A run time is drawn from the recent ones of the same task and tenant; with few of them, also from
those of the task, then of the class. It is longer than what has passed already, and cut by the
time limit.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from gpuqueue.forecast.snapshot import Waiting

#: As many run times as this count as much as those of the next wider kind.
PRIOR = 8.0
Kind = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Past:
    """An attempt that has ended. Times are Unix seconds."""

    isolation: str
    task: str
    tenant: str
    accepted: float
    stop: float
    seconds: float | None
    """How long it held its slot; None: its process never began."""
    first: bool = True
    """Whether its job came with it: it is no later attempt."""


class NotKnown(Exception):
    """Nothing is known of how long jobs of a task run: the task."""


@dataclass(frozen=True)
class RunTimes:
    """The run times of late.

    ``runs``: (isolation, task, tenant) → seconds, the newest first; without a tenant, of all of
    them. ``past``: the attempts of the class that ended last, the oldest first; ``cut``: there were
    more.
    """

    runs: Mapping[Kind, Sequence[float]]
    past: Sequence[Past] = ()
    cut: bool = False

    def has(self, job: Waiting) -> bool:
        """Whether anything is known of how long a job runs."""
        kinds = ((job.isolation, job.task, each) for each in (job.tenant, ""))
        return (
            job.time_limit is not None
            or any(self.runs.get(each) for each in kinds)
            or job.isolation in self._isolations
        )

    @cached_property
    def _isolations(self) -> set[str]:
        return {each.isolation for each in self.past if each.seconds is not None}


class Draws:
    """One possible world: what is known, drawn again with replacement, so that few run times make
    a range wide.
    """

    def __init__(self, known: RunTimes, chance: random.Random) -> None:
        self._known, self._chance = known, chance
        self._drawn: dict[Kind, list[float]] = {}
        self._class: dict[str, list[float]] = {}

    def seconds(self, kind: Kind, elapsed: float = 0.0, limit: float | None = None) -> float:
        """Return how long a job holds its slot in all, of which some time has ``elapsed``.

        Raises :class:`NotKnown`.
        """
        if limit is not None and elapsed >= limit:
            return elapsed
        total = self._beyond(kind, elapsed)
        if total is None and limit is not None:
            return self._chance.uniform(elapsed, limit)
        if total is None:
            raise NotKnown(kind[1])
        return total if limit is None else min(total, limit)

    def _beyond(self, kind: Kind, elapsed: float) -> float | None:
        """A run time of more than ``elapsed``."""
        isolation, task, tenant = kind
        lists = [self._of((isolation, task, each)) for each in dict.fromkeys((tenant, ""))]
        lists.append(self._of_class(isolation))
        known = False
        for index, runs in enumerate(lists):
            known = known or bool(runs)
            longer = len(runs) - bisect_right(runs, elapsed)
            wider = any(lists[index + 1 :])
            if longer and (not wider or self._chance.random() < longer / (longer + PRIOR)):
                return runs[len(runs) - 1 - self._chance.randrange(longer)]
        if not known:
            return None
        # It runs longer than all before: it is as likely to last as long again as not.
        return elapsed / (1 - self._chance.random())

    def _of(self, kind: Kind) -> list[float]:
        found = self._drawn.get(kind)
        if found is None:
            found = self._drawn[kind] = self._again(self._known.runs.get(kind, ()))
        return found

    def _of_class(self, isolation: str) -> list[float]:
        found = self._class.get(isolation)
        if found is None:
            runs = [
                each.seconds
                for each in self._known.past
                if each.isolation == isolation and each.seconds is not None
            ]
            found = self._class[isolation] = self._again(runs)
        return found

    def _again(self, runs: Sequence[float]) -> list[float]:
        return sorted(self._chance.choices(runs, k=len(runs))) if runs else []
