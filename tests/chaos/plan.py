"""A schedule, derived from a seed alone: which jobs are sent when, and which faults happen when."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

#: Seconds within which jobs are sent and faults begin.
SPAN = 1.2
#: Kinds of jobs of which each schedule has some, beside a plain and an exclusive one.
SOME = (
    "plain",
    "exclusive",
    "failing",
    "retrying",
    "chord",
    "chain",
    "late",
    "expiring",
    "cancelled",
)
CONTAINER = "container"
#: One schedule in so many has two kinds of faults at once.
TWO_IN = 4


@dataclass(frozen=True)
class Sent:
    """One job, or a canvas of several. ``number`` is unique in its schedule."""

    number: int
    kind: str
    queue: str
    at: float
    seconds: float
    #: of a late job until it may start, of an expiring one until it expires, of a cancelled one
    #: until it is cancelled
    after: float = 0.0


@dataclass(frozen=True)
class Planned:
    """One fault. ``draw`` in [0, 1) chooses among what the fault can choose from."""

    kind: str
    at: float
    seconds: float
    draw: float


@dataclass(frozen=True)
class Schedule:
    seed: int
    launcher: str
    jobs: tuple[Sent, ...]
    faults: tuple[Planned, ...] = field(default=())

    @property
    def row(self) -> str:
        """The row of the table in which the schedule counts."""
        return self.faults[0].kind if len(self.faults) == 1 else "two kinds at once"

    def lines(self) -> list[str]:
        """Tell the schedule."""
        told = [(each.at, f"send {each.kind} {each.number} to {each.queue}") for each in self.jobs]
        for fault in self.faults:
            told.append((fault.at, f"{fault.kind} for {fault.seconds} s (draw {fault.draw})"))
        return [f"{at:5.2f} s {what}" for at, what in sorted(told)]


def plan(seed: int, launcher: str, kinds: dict[str, str]) -> Schedule:
    """Derive a schedule. ``kinds``: kind of fault → what it acts on, of those that the launcher
    knows. Each kind has its turn. Two at once act on different things.
    """
    rng = random.Random(f"{seed} {launcher}")
    chosen = ["plain", "exclusive", *rng.sample(SOME, 3)]
    if launcher == "kubernetes" and rng.random() < 0.3:
        chosen[2] = CONTAINER
    rng.shuffle(chosen)
    jobs = []
    for number, kind in enumerate(chosen):
        exclusive = kind == "exclusive" or (kind != "plain" and rng.random() < 0.25)
        jobs.append(
            Sent(
                number,
                kind,
                f"gpu.t4.{'exclusive' if exclusive else 'shared'}",
                round(rng.uniform(0, SPAN), 2),
                round(rng.choice((0.0, 0.05, 0.2, 0.5)), 2),
                round(rng.uniform(0.05, 0.8), 2),
            )
        )
    first = list(kinds)[seed % len(kinds)]
    faults = [_fault(rng, first)]
    others = [each for each in kinds if kinds[each] != kinds[first]]
    if rng.randrange(TWO_IN) == 0 and others:
        faults.append(_fault(rng, rng.choice(others)))
    return Schedule(seed, launcher, tuple(jobs), tuple(faults))


def _fault(rng: random.Random, kind: str) -> Planned:
    at, seconds = round(rng.uniform(0, SPAN), 2), round(rng.uniform(0.2, 2.0), 2)
    return Planned(kind, at, seconds, round(rng.random(), 4))
