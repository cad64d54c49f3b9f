"""Which jobs of a class with tenants are next: the forecast's line of tenants, made from the first
jobs of those that come first. Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import redis

from gpuqueue.forecast.lines import UNREAD
from gpuqueue.forecast.snapshot import Held, Tenants, Waiting
from gpuqueue.forecast.tenant_line import ByTenants
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.store.keys import class_key
from gpuqueue.store.readable import readable, readable_list, whole
from gpuqueue.store.snapshot_texts import HALF_LIFE, rule_of, tenant_of

#: The most tenants of each isolation that are read, and how many of their first jobs.
TENANTS, OF_EACH = 64, 8
_KIND = {SHARED: 0, EXCLUSIVE: 1}
#: Where the state of a tenant has its places among the others.
_FRONTS = {SHARED: 6, EXCLUSIVE: 7}


@dataclass(frozen=True, slots=True)
class NextJobs:
    """Isolation → the deliveries that are next, in order, as far as that is known."""

    by_tenants: bool
    """Without tenants, the place in line decides."""
    first: Mapping[str, list[str]] = field(default_factory=dict)


def read(client: redis.Redis, gpu_class: str, most: int) -> NextJobs:
    """Return the jobs that are next in a class, up to so many of each isolation: as if each of them
    started at this moment.
    """
    pipe = client.pipeline(transaction=False)
    pipe.hmget(class_key(gpu_class, "gate"), "order", "served", "tenant")
    pipe.time()
    for isolation, kind in _KIND.items():
        order = class_key(gpu_class, "tenant_order")
        pipe.zrange(order, kind, kind, byscore=True, offset=0, num=TENANTS)
        pipe.zcard(class_key(gpu_class, f"waiting_{isolation}"))
    (order, served, last), now, *found = pipe.execute()
    if not str(order or "").startswith("tenants"):
        return NextJobs(False)
    totals = dict(zip(ISOLATIONS, found[1::2], strict=True))
    names = sorted({front.partition(":")[2] for each in found[0::2] for front in each})
    tenants = _tenants(client, gpu_class, names, whole(served or ""), whole(last or ""))
    waiting, held = _jobs(client, gpu_class, tenants)
    more = {
        each: max(0, total - sum(job.isolation == each for job in waiting))
        for each, total in totals.items()
    }
    line = ByTenants(tenants, tenants.share, waiting, more, held, now[0])
    return NextJobs(True, {each: _first(line.copy(), each, now[0], most) for each in ISOLATIONS})


def _tenants(
    client: redis.Redis, gpu_class: str, names: list[str], served: int, last: int
) -> Tenants:
    pipe = client.pipeline(transaction=False)
    fields = [f"={name}" for name in names]
    pipe.hmget(class_key(gpu_class, "tenants"), [*fields, "."])
    pipe.hmget(class_key(gpu_class, "tenant_rules"), [*fields, "*", "half_life", "share"])
    states, (*rules, rest, half_life, share) = pipe.execute()
    known = {
        name: tenant
        for name, text, rule in zip(names, states, rules, strict=False)
        if (tenant := tenant_of(text, rule or rest))
    }
    seconds = (readable(half_life) or {}).get("seconds", HALF_LIFE)
    return Tenants(known, float(seconds), float(share or 1), served, last, rule_of(0, rest))


def _jobs(
    client: redis.Redis, gpu_class: str, tenants: Tenants
) -> tuple[list[Waiting], list[Held]]:
    """Return the first jobs of each tenant, and what holds its slots."""
    jobs, running = (class_key(gpu_class, each) for each in ("tenant_jobs", "tenant_running"))
    pipe = client.pipeline(transaction=False)
    for tenant in tenants.known.values():
        first = tenant.id * 4
        for kind in _KIND.values():
            line = first + kind
            pipe.zrange(jobs, line, line, byscore=True, offset=0, num=OF_EACH)
            pipe.zcount(running, line, line)
        pipe.zcount(running, first + 3, first + 3)
    answers = iter(pipe.execute())
    waiting: list[Waiting] = []
    held: list[Held] = []
    for name in tenants.known:
        for isolation in ISOLATIONS:
            for member in next(answers):
                place, _, delivery = member.partition(":")
                known = (delivery, isolation, int(place[1:3]), int(place[3:]), name)
                waiting.append(Waiting(*known))
            total = next(answers)
            held += [Held(f"{name}#{isolation}#{at}", isolation, name) for at in range(total)]
        further = next(answers)
        if further and held and held[-1].tenant == name:  # of any of its jobs
            held[-1] = Held(held[-1].holder, EXCLUSIVE, name, gpus=1 + further)
    return waiting, held


def _first(line: ByTenants, isolation: str, now: float, most: int) -> list[str]:
    found: list[str] = []
    read_of: dict[str, int] = {}
    for number in count():
        job = line.first(isolation)
        if job is None or line.dry or UNREAD in job.delivery or number == most:
            break
        found.append(job.delivery)
        line.leave(job, now)
        line.started(job, Held(f"+{number}", isolation, job.tenant), now)
        read_of[job.tenant] = read_of.get(job.tenant, 0) + 1
        if read_of[job.tenant] == OF_EACH:  # it may have more
            break
    return found


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
