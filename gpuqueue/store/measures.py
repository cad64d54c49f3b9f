"""Measure a class for /metrics. Nothing here changes anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import redis

from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.store.counts import Counts, parse
from gpuqueue.store.places import parse as parse_places
from gpuqueue.store.places import set_aside
from gpuqueue.store.scripts import Scripts


@dataclass(frozen=True, slots=True)
class Measured:
    """One class at one moment. The keys are isolations. ``longest_wait`` is the age of the oldest
    waiting job in seconds; 0: none waits.
    """

    waiting: dict[str, int]
    longest_wait: dict[str, float]
    holders: dict[str, int]
    delayed: int
    finishing: int
    counts: Counts
    set_aside: Mapping[str, int] = field(default_factory=dict)
    """Kind of places → how many are set aside."""
    idle_pods: int = 0
    """Pods that wait for a job, without a slot."""


class Measures:
    """Measures classes."""

    def __init__(self, client: redis.Redis) -> None:
        self._scripts = Scripts(client)

    def of(self, gpu_class: str) -> Measured:
        """Measure one class, in one script."""
        answer = self._scripts.call("measured", gpu_class)
        (
            shared,
            exclusive,
            longest_shared,
            longest_exclusive,
            shared_held,
            exclusive_held,
            delayed,
            finishing,
            fields,
            known,
            idle_pods,
        ) = answer
        places = parse_places(_pairs(known))
        return Measured(
            {SHARED: shared, EXCLUSIVE: exclusive},
            {SHARED: float(longest_shared), EXCLUSIVE: float(longest_exclusive)},
            {SHARED: shared_held, EXCLUSIVE: exclusive_held},
            delayed,
            finishing,
            parse(_pairs(fields)),
            Counter(place.kind for place in set_aside(places)),
            idle_pods,
        )


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
