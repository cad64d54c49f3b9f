"""Read what a decision about a class depends on, for forecasts: bounded, in a few round trips.

Nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import redis

from gpuqueue.classes.gpu_class import DEVICE, GpuClass
from gpuqueue.forecast.domains import PROVEN
from gpuqueue.forecast.run_times import Past, RunTimes
from gpuqueue.forecast.snapshot import (
    Aside,
    Domains,
    Held,
    Snapshot,
    Tenant,
    Tenants,
    Waiting,
)
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.model.place import Place, PlaceKind
from gpuqueue.model.record import Record, planned_limit
from gpuqueue.model.states import JobState
from gpuqueue.store import places
from gpuqueue.store.keys import class_key
from gpuqueue.store.readable import readable, readable_record, whole
from gpuqueue.store.snapshot_texts import (
    HALF_LIFE,
    delivery_of,
    device_names,
    domain_of,
    gpus_of,
    past_of,
    rule_of,
    rules_of,
    run_times_name,
    seconds_of,
    tenant_of,
)

#: The most jobs in line that are read of each isolation, and tenants, delayed jobs and ended
#: attempts.
JOBS, TENANTS, DELAYED, ENDED = 1000, 500, 200, 512
_KIND = {SHARED: 0, EXCLUSIVE: 1}


class Snapshots:
    """Reads classes.

    Args:
        client: of the Redis that has the state.
        gpu_class: the class, as its dispatchers announced it.
    """

    def __init__(self, client: redis.Redis, gpu_class: GpuClass) -> None:
        self._client, self._class = client, gpu_class
        self._records: dict[str, Record | None] = {}
        self._now = 0.0
        #: How jobs name the GPUs where they failed → their domains.
        self._names: Mapping[str, str] = {}
        self._past: list[Past] = []

    def read(self, delivery: str, now: float) -> Snapshot:
        """Return the class at one moment, with a delivery.

        Args:
            delivery: a job that waits; of more jobs than the most, those ahead of it are read.
            now: the time of Redis.
        """
        key = self._key
        pipe = self._client.pipeline(transaction=True)
        pipe.hgetall(key("gate"))
        for each in ISOLATIONS:
            pipe.zrange(key(f"waiting_{each}"), 0, JOBS - 1)
            pipe.zcard(key(f"waiting_{each}"))
            pipe.zrange(key(f"holders_{each}"), 0, -1, withscores=True)
        pipe.zrange(key("delayed"), 0, DELAYED - 1, withscores=True)
        pipe.hgetall(key("domains"))
        pipe.hgetall(f"{key('domains')}:of")
        pipe.hgetall(key("places"))
        pipe.hgetall(key("terms"))
        pipe.zrange(key("tenant_charged"), 0, -1, withscores=True)
        pipe.zrange(key("history"), -ENDED, -1)
        gate, *parts, delayed, slots, of, found, terms, charged, history = pipe.execute()
        self._names = device_names(terms)
        self._now = now
        self._past = [past for text in history if (past := past_of(text))]
        lines = dict(zip(ISOLATIONS, parts[0::3], strict=True))
        totals = dict(zip(ISOLATIONS, parts[1::3], strict=True))
        holders = dict(zip(ISOLATIONS, parts[2::3], strict=True))
        self._load(
            [delivery, gate.get("reserved_for", ""), *(name for name, _ in delayed)],
            *lines.values(),
            *(
                [delivery_of(self._class.name, name) for name, _ in each]
                for each in holders.values()
            ),
        )
        held = [
            self._held(name, each, since, of, dict(charged))
            for each, names in holders.items()
            for name, since in names
        ]
        order = str(gate.get("order", "")).partition(" ")[0]
        by_tenants = order in ("tenants", "sorting")
        tenants = None
        # The lines of tenants are made again: until then, the whole line says who waits.
        whole_line = [name for line in lines.values() for name in line]
        in_line = whole_line if order == "sorting" else []
        if by_tenants:
            own, *others = (
                (self._records.get(each) or {}).get("tenant", "")
                for each in (delivery, *(name for name, _ in delayed), *in_line)
            )
            others += [*(each.tenant for each in held), *(each.tenant for each in self._past)]
            tenants = self._tenants(gate, own, others)
        waiting = [*tenants[1], *in_line] if tenants else whole_line
        jobs = [job for name in dict.fromkeys(waiting) if (job := self._waiting(name))]
        more = {
            each: max(0, totals[each] - sum(job.isolation == each for job in jobs))
            for each in ISOLATIONS
        }
        return Snapshot(
            now=now,
            rules=rules_of(self._class),
            waiting=jobs,
            more=more,
            held=held,
            delayed=[
                (due, job)
                for name, due in delayed
                if (job := self._waiting(name, JobState.DELAYED))
            ],
            bypassed=whole(gate.get("*:bypassed", "")),
            row=whole(gate.get("*:row", "")),
            until=float(gate["*:until"]) if "*:until" in gate else None,
            arrivals=whole(gate.get("seq", "")),
            opened="opened" in gate,
            domains=self._domains(gate, slots, found, {each.holder for each in held}),
            tenants=tenants[0] if tenants else None,
            asked=self._waiting(delivery) or self._waiting(delivery, JobState.DELAYED),
        )

    def run_times(self, snapshot: Snapshot) -> RunTimes:
        """Return how long attempts of its tasks have held their slots of late."""
        jobs = [*snapshot.waiting, *(job for _, job in snapshot.delayed)]
        kinds = {(each.isolation, each.task, each.tenant) for each in jobs}
        kinds |= {(each.isolation, each.task, each.tenant) for each in snapshot.held}
        kinds |= {(isolation, task, "") for isolation, task, _ in kinds}
        names = sorted(kinds)
        texts: Any = []
        if names:
            texts = self._client.hmget(
                self._key("run_times"), [run_times_name(*each) for each in names]
            )
        runs = {
            name: seconds
            for name, text in zip(names, texts, strict=True)
            if (seconds := seconds_of(text))
        }
        return RunTimes(runs, self._past, len(self._past) == ENDED)

    def _key(self, name: str) -> str:
        return class_key(self._class.name, name)

    def _load(self, *lists: Iterable[str]) -> None:
        names = list(dict.fromkeys(name for each in lists for name in each if name))
        names = [name for name in names if name not in self._records]
        pipe = self._client.pipeline(transaction=False)
        for first in range(0, len(names), JOBS):
            pipe.hmget(self._key("jobs"), names[first : first + JOBS])
        texts = [text for part in pipe.execute() for text in part]
        for name, text in zip(names, texts, strict=True):
            self._records[name] = readable_record(text, self._class.name)

    def _waiting(self, name: str, state: JobState = JobState.WAITING) -> Waiting | None:
        record = self._records.get(name)
        if record is None or record["state"] != state:
            return None
        return Waiting(
            name,
            record["isolation"],
            int(record.get("priority", 0)),
            int(record.get("arrival", 0)),
            record.get("tenant", ""),
            record.get("task", ""),
            planned_limit(record) or record.get("time_limit"),
            record.get("expires"),
            frozenset(self._names.get(each, each) for each in record.get("avoid", ())),
            record.get("created", 0.0),
            gpus_of(record),
            planned_limit(record) is None,
        )

    def _held(
        self, holder: str, isolation: str, since: float, of: Mapping[str, str], charged: Any
    ) -> Held:
        record = self._records.get(delivery_of(self._class.name, holder)) or {}
        current = f"{record.get('delivery')}#{record.get('attempt')}" == holder
        record = record if current else {}
        planned = planned_limit(record)
        limit = planned or record.get("time_limit")
        began = record.get("started") or record.get("admitted") or since
        return Held(
            holder,
            isolation,
            record.get("tenant", ""),
            record.get("task", ""),
            of.get(holder, domain_of(record)),
            began + planned if planned else None,
            limit,
            since,
            charged.get(holder),
            record.get("created", 0.0),
            int(record.get("priority", 0)),
            gpus_of(record) if isolation == EXCLUSIVE else 1,
        )

    def _domains(
        self,
        gate: Mapping[str, str],
        slots: Mapping[str, str],
        found: Mapping[str, str],
        held: Collection[str],
    ) -> Domains | None:
        each = (self._class.shared_slots, self._class.exclusive_slots)
        by_device = self._class.spec().get("domain") == DEVICE
        known = gate.get("domains", "")
        if not (known or slots or "domain" in self._class.spec()):
            return None
        made = {
            name: (int(entry.get(SHARED, 0)), int(entry.get(EXCLUSIVE, 0)))
            for name, text in slots.items()
            if (entry := readable(text)) is not None
        }
        if by_device:  # as the next decision makes them
            made = {str(index): each for index in range(self._class.domains)}
        aside = {}
        for place in places.parse(found):
            name = place.name.partition(":")[2]
            if place.kind == PlaceKind.DEVICE:
                name = place.domain
            elif place.kind != PlaceKind.NODE:
                continue
            if place.until is not None and name in made:
                aside[name] = self._aside(place, name, held)
        until = float(gate.get("until") or 0)
        kept = frozenset(name for name, text in slots.items() if "waits" in (readable(text) or {}))
        waits = self._waiting(gate.get("reserved_for", "")) is not None
        return Domains(
            made,
            gate.get("drained"),
            until,
            aside,
            gate.get("reserved") if waits else None,
            gate.get("reserved_for") if waits else None,
            gate.get("strict"),
            kept,
            whole(gate.get("scale", "")),
            max(map(int, gate.get("sizes", "").split()), default=0),
        )

    def _aside(self, place: Place, name: str, held: Collection[str]) -> Aside:
        assert place.until is not None
        record = self._records.get(delivery_of(self._class.name, place.probe)) or {}
        current = f"{record.get('delivery')}#{record.get('attempt')}" == place.probe
        on = record.get("node", name) if current and place.kind == PlaceKind.NODE else name
        if place.probe not in held or on != name:
            return Aside(place.until)
        runs = current and record["state"] in (JobState.RUNNING, JobState.REPORTING)
        return Aside(place.until, place.probe, (record["started"] if runs else self._now) + PROVEN)

    def _tenants(
        self, gate: Mapping[str, str], own: str, others: Sequence[str]
    ) -> tuple[Tenants, list[str]]:
        """Return the tenants, and the deliveries of their first jobs. ``own``: the tenant of the
        job that it is about; ``others`` may have no job in line.
        """
        pipe = self._client.pipeline(transaction=True)
        for kind in _KIND.values():
            pipe.zrange(self._key("tenant_order"), kind, kind, byscore=True, offset=0, num=TENANTS)
        fronts = [front.partition(":")[2] for part in pipe.execute() for front in part]
        names = list(dict.fromkeys([own, *fronts, *others]))
        pipe.hmget(self._key("tenants"), [f"={name}" for name in names])
        pipe.hgetall(self._key("tenant_rules"))
        texts, rules = pipe.execute()
        seconds = (readable(rules.get("half_life")) or {}).get("seconds", HALF_LIFE)
        rest = rules.get("*")
        known = {
            name: tenant_of(text, rules.get(f"={name}", rest))
            for name, text in zip(names, texts, strict=True)
        }
        tenants = {name: each for name, each in known.items() if each}
        waiting, unread = self._lines_of(tenants, own)
        found = Tenants(
            tenants,
            float(seconds),
            float(rules.get("share") or 1),
            whole(gate.get("served", "")),
            whole(gate.get("tenant", "")),
            rule_of(0, rest),
            {name[1:]: rule_of(0, text) for name, text in rules.items() if name[0] == "="},
            unread,
            gate.get("turn"),
        )
        return found, waiting

    def _lines_of(
        self, tenants: Mapping[str, Tenant], own: str
    ) -> tuple[list[str], dict[tuple[str, str], int]]:
        most = max(16, 2 * JOBS // max(1, len(tenants)))
        lines = [(name, each) for name in tenants for each in ISOLATIONS]
        pipe = self._client.pipeline(transaction=True)
        for name, isolation in lines:
            score = tenants[name].id * 4 + _KIND[isolation]
            top = JOBS if name == own else most
            pipe.zrange(self._key("tenant_jobs"), score, score, byscore=True, offset=0, num=top)
            pipe.zcount(self._key("tenant_jobs"), score, score)
        answers = pipe.execute()
        waiting: list[str] = []
        unread: dict[tuple[str, str], int] = {}
        for line, members, total in zip(lines, answers[0::2], answers[1::2], strict=True):
            waiting += [member.partition(":")[2] for member in members]
            if total > len(members):
                unread[line] = total - len(members)
        self._load(waiting)
        return waiting, unread
