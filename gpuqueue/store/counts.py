"""What the scripts count for /metrics, in the hash ``counts`` of a class. The counts do not depend
on any dispatcher, and no event is counted twice.

A field is ``<event>:<isolation>``. Most have a third part: the reason, or for a duration its bucket
or ``sum``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

#: Upper bounds of the buckets in seconds, from an immediate launch to a day in line. A bucket
#: ``inf`` is above all.
BOUNDS = (0.1, 0.5, 1, 2, 5, 15, 60, 300, 900, 3600, 14_400, 43_200, 86_400)
ACCEPTED, ENDED, REPEATED, WAIT, HELD = "accepted", "ended", "repeated", "wait", "held"
GIVEN_UP, WARM = "given_up", "warm"


@dataclass(frozen=True, slots=True)
class Durations:
    """A histogram: for each bound, the number of durations up to it (cumulative, as in Prometheus);
    and the total in seconds.
    """

    buckets: tuple[tuple[str, float], ...]
    total: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of one class since its first job. Keys are isolations, or (isolation, reason)."""

    accepted: dict[str, float] = field(default_factory=dict)
    ended: dict[tuple[str, str], float] = field(default_factory=dict)
    repeated: dict[tuple[str, str], float] = field(default_factory=dict)
    given_up: dict[tuple[str, str], float] = field(default_factory=dict)
    warm: dict[str, float] = field(default_factory=dict)
    wait: dict[str, Durations] = field(default_factory=dict)
    held: dict[str, Durations] = field(default_factory=dict)


def parse(fields: Mapping[str, str]) -> Counts:
    """Parse the hash. Fields of a newer version are left out, and those that are no number. A
    bucket with another bound counts in the next larger one.
    """
    found = Counts()
    by_reason = {ENDED: found.ended, REPEATED: found.repeated, GIVEN_UP: found.given_up}
    durations: dict[tuple[str, str], dict[str, float]] = {}
    for name, number in _numbers(fields):
        what, _, rest = name.partition(":")
        isolation, _, detail = rest.partition(":")
        if what == ACCEPTED:
            found.accepted[isolation] = number
        elif what == WARM:
            found.warm[isolation] = number
        elif what in by_reason:
            by_reason[what][isolation, detail] = number
        elif what in (WAIT, HELD):
            durations.setdefault((what, isolation), {})[detail] = number
    for (what, isolation), parts in durations.items():
        (found.wait if what == WAIT else found.held)[isolation] = _durations(parts)
    return found


def _numbers(fields: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for name, text in fields.items():
        with suppress(ValueError):
            yield name, float(text)


def _durations(parts: Mapping[str, float]) -> Durations:
    counted = {float(bound): number for bound, number in parts.items() if bound != "sum"}
    bounds = [*BOUNDS, float("inf")]
    buckets = tuple(
        (_text(bound), sum(number for each, number in counted.items() if each <= bound))
        for bound in bounds
    )
    return Durations(buckets, parts.get("sum", 0.0))


def _text(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(float(bound))
