"""Measure a class for /metrics. Nothing here changes anything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.store.counts import Counts, parse
from gpuqueue.store.domains import Domains
from gpuqueue.store.places import parse as parse_places
from gpuqueue.store.places import set_aside
from gpuqueue.store.scripts import Scripts
from gpuqueue.store.tenants import Tenant, Tenants


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
    used: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    """(tenant, isolation, reason) → seconds of GPUs that ended attempts have used."""
    tenants: Sequence[Tenant] = ()
    """Those with jobs, and those that were served last; not all, if there are many."""
    all_tenants: int = 0
    further_slots: int = 0
    """Exclusive slots in use beyond one for each holder: of jobs of several GPUs."""
    needed: Mapping[str, int] = field(default_factory=dict)
    """How many slots the first job in line needs; 0: none waits."""

    def slots_in_use(self, isolation: str) -> int:
        """Return how many slots jobs hold."""
        return self.holders[isolation] + (self.further_slots if isolation == EXCLUSIVE else 0)


class Measures:
    """Measures classes."""

    def __init__(self, client: redis.Redis) -> None:
        self._scripts, self._tenants = Scripts(client), Tenants(client)
        self._domains = Domains(client)

    def slots(self, gpu_class: GpuClass) -> dict[str, int]:
        """Return the slots of a class by isolation, of all its domains together."""
        return self._domains.slots(gpu_class)

    def of(self, gpu_class: str) -> Measured:
        """Measure one class, in two scripts."""
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
            used,
            further,
            needed,
        ) = answer
        places = parse_places(_pairs(known))
        tenants = self._tenants.of(gpu_class)
        return Measured(
            {SHARED: shared, EXCLUSIVE: exclusive},
            {SHARED: float(longest_shared), EXCLUSIVE: float(longest_exclusive)},
            {SHARED: shared_held, EXCLUSIVE: exclusive_held},
            delayed,
            finishing,
            parse(_pairs(fields)),
            Counter(place.kind for place in set_aside(places)),
            idle_pods,
            _used(_pairs(used)),
            tenants.tenants,
            tenants.total,
            further,
            {SHARED: min(1, shared), EXCLUSIVE: needed},
        )


def _used(totals: Mapping[str, str]) -> dict[tuple[str, str, str], float]:
    """Parse the totals. What cannot be read is left out."""
    found = {}
    for name, seconds in totals.items():
        with suppress(ValueError, TypeError):
            tenant, isolation, reason = json.loads(name)
            found[str(tenant), str(isolation), str(reason)] = float(seconds)
    return found


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
