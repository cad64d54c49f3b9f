"""Read the state, for commands and watchers. Nothing here changes anything."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.model.record import Record
from gpuqueue.store.clock import redis_time
from gpuqueue.store.keys import CLASSES, DISPATCHERS, GROUPS, HOSTS, class_key, leader_key
from gpuqueue.store.readable import readable, readable_class, readable_record, whole
from gpuqueue.store.scripts import Scripts


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job has not started. ``place`` counts from 1 within its isolation; 0: not in line.
    ``ahead`` has the deliveries just before it.
    """

    record: Record
    reason: str
    place: int
    ahead: list[str]


@dataclass(frozen=True, slots=True)
class ClassView:
    """One class at one moment: the records of its holders and waiting jobs, in order."""

    name: str
    spec: dict[str, Any]
    holders: dict[str, list[Record]]
    waiting: dict[str, list[Record]]
    waiting_total: dict[str, int]
    delayed: int
    finishing: int
    gate: dict[str, int] = field(default_factory=dict)
    idle_pods: int = 0
    held_total: dict[str, int] = field(default_factory=dict)
    """How many slots are held: a job of several GPUs has one for each."""


@dataclass(frozen=True, slots=True)
class Todo:
    """What a watcher must handle in a class, each with the time since when."""

    stopping: list[tuple[Attempt, float]]
    finishing: list[tuple[str, float]]
    accepted: list[tuple[str, float]]
    opened: bool
    """Whether jobs may start, and it is known on which server: see open.lua."""


class Reader:
    """Reads the state."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._scripts = Scripts(client)

    def classes(self) -> dict[str, dict[str, Any]]:
        """Return the settings of all classes, as the newest dispatcher of each announced them."""
        found: dict[str, str] = self._client.hgetall(CLASSES)  # type: ignore[assignment]
        return {name: readable_class(name, text) for name, text in sorted(found.items())}

    def record(self, gpu_class: str, delivery: str) -> Record | None:
        """Return the record of a delivery; None if it is unknown."""
        raw = self._client.hget(class_key(gpu_class, "jobs"), delivery)
        return readable_record(raw, gpu_class)

    def records(self, gpu_class: str, deliveries: Iterable[str]) -> list[Record]:
        """Return the records of several deliveries, without those that no longer exist."""
        names = list(deliveries)
        if not names:
            return []
        raw: list[str | None] = self._client.hmget(class_key(gpu_class, "jobs"), names)  # type: ignore[assignment]
        return [record for each in raw if (record := readable_record(each, gpu_class))]

    def places(self, gpu_class: str, isolation: str, deliveries: Sequence[str]) -> dict[str, int]:
        """Return the places in line of several deliveries, without those that are in none."""
        pipe = self._client.pipeline(transaction=False)
        for each in deliveries:
            pipe.zrank(class_key(gpu_class, f"waiting_{isolation}"), each)
        ranks = zip(deliveries, pipe.execute(), strict=True)
        return {each: rank + 1 for each, rank in ranks if rank is not None}

    def find(self, job_id: str, classes: Iterable[str]) -> Record | None:
        """Return the newest delivery of a job, in any of the classes. The name of a delivery finds
        that one.
        """
        names = list(classes)
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hget(class_key(name, "latest"), job_id)
        newest = pipe.execute()
        for name, delivery in zip(names, newest, strict=True):
            pipe.hget(class_key(name, "jobs"), delivery or job_id)
        found = [
            record
            for name, raw in zip(names, pipe.execute(), strict=True)
            if (record := readable_record(raw, name))
        ]
        return max(found, key=lambda record: record.get("created", 0), default=None)

    def all_records(self, gpu_class: str) -> Iterable[Record]:
        """Yield every record of a class, tombstones included, in no order."""
        for _, raw in self._client.hscan_iter(class_key(gpu_class, "jobs"), count=500):
            record = readable_record(raw, gpu_class)
            if record is not None:
                yield record

    def message(self, gpu_class: str, delivery: str) -> dict[str, Any] | None:
        """Return the Celery message of a delivery; None once it has ended."""
        raw = self._client.hget(class_key(gpu_class, "messages"), delivery)
        return readable(raw)

    def messages(self, gpu_class: str, deliveries: Iterable[str]) -> list[dict[str, Any]]:
        """Return the Celery messages of several deliveries, without those that have ended."""
        pipe = self._client.pipeline(transaction=False)
        for delivery in deliveries:
            pipe.hget(class_key(gpu_class, "messages"), delivery)
        return [packed for raw in pipe.execute() if (packed := readable(raw))]

    def have_slots(self, attempts: Sequence[Attempt]) -> list[bool]:
        """Return whether each attempt holds a slot."""
        held = []
        for isolation in ISOLATIONS:
            pipe = self._client.pipeline(transaction=False)
            for each in attempts:
                pipe.zscore(class_key(each.gpu_class, f"holders_{isolation}"), each.holder)
            held.append(pipe.execute())
        return [any(since is not None for since in each) for each in zip(*held, strict=True)]

    def waiting_pods(self, gpu_class: str) -> list[str]:
        """Return the instances that wait for a job, and hold no slot."""
        found: list[str] = self._client.hkeys(class_key(gpu_class, "warm"))  # type: ignore[assignment]
        return found

    def live(self, gpu_class: str, size: int = 500) -> Iterator[list[str]]:
        """Yield the deliveries that wait or run, in lists of up to ``size``. One that moves on
        meanwhile may be missing, or twice.
        """
        waiting = ("accepted", "delayed", "waiting_shared", "waiting_exclusive")
        for name in (*waiting, "holders_shared", "holders_exclusive"):
            for first in itertools.count(0, size):
                found: list[str] = self._client.zrange(  # type: ignore[assignment]
                    class_key(gpu_class, name), first, first + size - 1
                )
                yield (found if name in waiting else _deliveries(gpu_class, found))
                if len(found) < size:
                    break

    def why(self, gpu_class: GpuClass, delivery: str, most: int = 5) -> Why | None:
        """Return why a delivery waits, its place, and up to ``most`` deliveries just ahead."""
        answer = self._scripts.call(
            "why", gpu_class.name, delivery=delivery, spec=gpu_class.spec(), most=most
        )
        return Why(json.loads(answer[0]), answer[1], answer[2], answer[3:]) if answer else None

    def todo(self, gpu_class: str, now: float) -> Todo:
        """Return what a watcher must handle. Of the finishing jobs, only those whose lease has
        expired.
        """
        pipe = self._client.pipeline(transaction=False)
        pipe.zrange(class_key(gpu_class, "stopping"), 0, -1, withscores=True)
        pipe.zrangebyscore(class_key(gpu_class, "finishing"), "-inf", now, 0, 256, withscores=True)
        pipe.zrange(class_key(gpu_class, "accepted"), 0, 255, withscores=True)
        pipe.hmget(class_key(gpu_class, "gate"), "opened", "opened_on")
        *parts, (opened, opened_on) = pipe.execute()
        stopping, finishing, accepted = (
            [(name, float(score)) for name, score in part] for part in parts
        )
        return Todo(
            [
                (attempt, since)
                for holder, since in stopping
                if (attempt := Attempt.parse(gpu_class, holder))
            ],
            finishing,
            accepted,
            bool(opened) and (opened_on or "").startswith(f"{opened} "),
        )

    def holders(self, gpu_class: str) -> list[tuple[Attempt, float]]:
        """Return every attempt that holds a slot, and since when."""
        return [
            (attempt, since)
            for _, name, since in self.holder_names(gpu_class)
            if (attempt := Attempt.parse(gpu_class, name))
        ]

    def holder_names(self, gpu_class: str) -> list[tuple[str, str, float]]:
        """Return every name that holds a slot: its key, the name, since when."""
        keys = [f"holders_{isolation}" for isolation in ISOLATIONS]
        pipe = self._client.pipeline(transaction=False)
        for key in keys:
            pipe.zrange(class_key(gpu_class, key), 0, -1, withscores=True)
        return [
            (key, name, float(since))
            for key, part in zip(keys, pipe.execute(), strict=True)
            for name, since in part
        ]

    def damaged(self, gpu_class: str) -> dict[str, str]:
        """Return what was set aside since no script can read it: where it was → its text."""
        found: dict[str, str] = self._client.hgetall(class_key(gpu_class, "damaged"))  # type: ignore[assignment]
        return found

    def view(
        self, name: str, spec: dict[str, Any], most: int = 50, held: int | None = None
    ) -> ClassView:
        """Return one class at one moment, with the records of the first ``most`` waiting jobs and
        of the first ``held`` holders (None: all) of each isolation.
        """
        pipe = self._client.pipeline(transaction=True)
        for kind in ISOLATIONS:
            pipe.zrange(class_key(name, f"holders_{kind}"), 0, -1 if held is None else held - 1)
            pipe.zcard(class_key(name, f"holders_{kind}"))
            pipe.zrange(class_key(name, f"waiting_{kind}"), 0, most - 1)
            pipe.zcard(class_key(name, f"waiting_{kind}"))
        pipe.zcard(class_key(name, "delayed"))
        pipe.zcard(class_key(name, "finishing"))
        pipe.hgetall(class_key(name, "gate"))
        pipe.zcard(class_key(name, "warm_until"))
        pipe.zcard(class_key(name, "holders_further"))
        *parts, idle_pods, further = pipe.execute()
        hs, hts, ws, ts, he, hte, we, te, delayed, finishing, gate = parts
        holders = {
            kind: _deliveries(name, part) for kind, part in zip(ISOLATIONS, (hs, he), strict=True)
        }
        return ClassView(
            name,
            spec,
            {kind: self.records(name, part) for kind, part in holders.items()},
            {SHARED: self.records(name, ws), EXCLUSIVE: self.records(name, we)},
            {SHARED: ts, EXCLUSIVE: te},
            delayed,
            finishing,
            {
                key.removeprefix("*:"): whole(value)
                for key, value in gate.items()
                if key.startswith("*:")
            },
            idle_pods,
            {SHARED: hts, EXCLUSIVE: hte + _slots(further)},
        )

    def dispatchers(self, since: float) -> list[str]:
        """Return the dispatchers with a heartbeat since a time (Unix seconds)."""
        found: list[str] = self._client.zrangebyscore(DISPATCHERS, since, "+inf")  # type: ignore[assignment]
        return found

    def host_heard(self, host: str, seconds: float) -> bool:
        """Whether any dispatcher on a host had a heartbeat within the last ``seconds``."""
        heard = self._client.zscore(HOSTS, host)
        return heard is not None and float(heard) >= redis_time(self._client) - seconds

    def leaders(self) -> list[str]:
        """Return the dispatchers whose watcher leads its group."""
        groups: list[str] = self._client.zrange(GROUPS, 0, -1)  # type: ignore[assignment]
        if not groups:
            return []
        found: list[str | None] = self._client.mget([leader_key(group) for group in groups])  # type: ignore[assignment]
        return sorted({each.partition(" ")[0] for each in found if each})

    def leader(self) -> str | None:
        """Return the first of the leaders; the only one if there is one group."""
        return next(iter(self.leaders()), None)


def _slots(members: int) -> int:
    """Return how many slots the members of ``holders_further`` are: one of them is a mark."""
    return max(0, members - 1)


def _deliveries(gpu_class: str, holders: Iterable[str]) -> list[str]:
    parsed = (Attempt.parse(gpu_class, holder) for holder in holders)
    return [attempt.delivery for attempt in parsed if attempt]
