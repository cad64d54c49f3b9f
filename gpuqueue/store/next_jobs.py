"""Which jobs of a class with tenants are next: by the fronts of their tenants, as
lua/lib/tenant_turns.lua takes them. Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any

import redis

from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.store.keys import class_key
from gpuqueue.store.readable import readable_list

#: The most tenants that are asked for their first jobs, and how many of these each.
TENANTS, OF_EACH = 64, 8
_KIND = {SHARED: 0, EXCLUSIVE: 1}
#: Where the state of a tenant has its places among the others.
_FRONTS = {SHARED: 6, EXCLUSIVE: 7}


@dataclass(frozen=True, slots=True)
class NextJobs:
    """Isolation → the deliveries that are next, in order, as far as that is known."""

    by_tenants: bool
    """Without tenants, the place in line decides."""
    first: dict[str, list[str]] = field(default_factory=dict)


def read(client: redis.Redis, gpu_class: str, most: int) -> NextJobs:
    """Return the jobs that are next in a class, up to so many of each isolation."""
    pipe = client.pipeline(transaction=False)
    pipe.hget(class_key(gpu_class, "gate"), "order")
    for kind in _KIND.values():
        order = class_key(gpu_class, "tenant_order")
        pipe.zrange(order, kind, kind, byscore=True, offset=0, num=min(most, TENANTS))
    told, *found = pipe.execute()
    if not str(told or "").startswith("tenants"):
        return NextJobs(False)
    fronts: dict[str, list[str]] = dict(zip(ISOLATIONS, found, strict=True))
    names = sorted({_tenant(front) for each in fronts.values() for front in each})
    states = _states(client, gpu_class, names)
    pipe = client.pipeline(transaction=False)
    asked = []
    for isolation, each in fronts.items():
        for front in each:
            state = states.get(_tenant(front))
            if state:
                score = int(state[0]) * 4 + _KIND[isolation]
                jobs = class_key(gpu_class, "tenant_jobs")
                pipe.zrange(jobs, score, score, byscore=True, offset=0, num=OF_EACH)
                asked.append((isolation, front))
    lines: dict[str, list[tuple[str, list[str]]]] = {each: [] for each in ISOLATIONS}
    for (isolation, front), members in zip(asked, pipe.execute(), strict=True):
        lines[isolation].append((front, members))
    return NextJobs(True, {each: _merged(line)[:most] for each, line in lines.items()})


def limited(
    client: redis.Redis, gpu_class: str, isolation: str, tenants: Iterable[str]
) -> set[str]:
    """Return which of some tenants with jobs in line run as many jobs as they may."""
    names = sorted(set(tenants))
    states = _states(client, gpu_class, names) if names else {}
    return {name for name, state in states.items() if state and not state[_FRONTS[isolation]]}


def _states(client: redis.Redis, gpu_class: str, names: list[str]) -> dict[str, list[Any] | None]:
    if not names:
        return {}
    texts: Any = client.hmget(class_key(gpu_class, "tenants"), [f"={name}" for name in names])
    return {name: readable_list(text, 8) for name, text in zip(names, texts, strict=True)}


def _merged(lines: Iterable[tuple[str, list[str]]]) -> list[str]:
    """Return the deliveries in order, each as if it were the first of its tenant; up to the first
    tenant that may have more than were read.
    """
    tops = [(front, 0, members) for front, members in lines if members]
    heapify(tops)
    found = []
    while tops:
        front, at, members = heappop(tops)
        found.append(members[at].partition(":")[2])
        if at + 1 < len(members):
            after = members[at + 1]
            heappush(tops, (front[:2] + after[1:3] + front[4:], at + 1, members))
        elif len(members) == OF_EACH:
            break
    return found


def _tenant(front: str) -> str:
    return front.partition(":")[2]
