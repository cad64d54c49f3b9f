"""Whose attempts the slots of the classes are: the names of clusters, as Redis knows them. They
outlive every address and certificate that a cluster or its Redis had when it got its name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import redis

from gpuqueue.store.clock import redis_time
from gpuqueue.store.keys import OWNERS, class_key
from gpuqueue.store.reader import Reader
from gpuqueue.store.scripts import Scripts


class ServedElsewhere(Exception):
    """A class by node is that of another cluster, whose dispatchers start its jobs."""

    def __init__(self, gpu_class: str, owner: str, own: str) -> None:
        super().__init__(
            f"class {gpu_class}: domain='node' counts the nodes of one cluster, those of {owner},"
            f" whose dispatchers live and start its jobs; {own} starts none: give each cluster"
            f" classes with other names (GPUQUEUE_CLASSES_FILE), such as {gpu_class}-north and"
            f" {gpu_class}-south"
        )
        self.gpu_class = gpu_class
        self.owner = owner


class Owners:
    """The owners of attempts. Every method may raise RedisError."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._reader = Reader(client)
        self._scripts = Scripts(client)

    def known(self, marks: Sequence[str]) -> str | None:
        """Return the owner that was kept for one of these marks of a cluster, the first one that
        has any.
        """
        found: list[str | None] = self._client.hmget(OWNERS, list(marks)) if marks else []  # type: ignore[assignment]
        return next((each for each in found if each), None)

    def keep(self, marks: Sequence[str], owner: str) -> str:
        """Keep the owner of a cluster under those of its marks that have none. Returns the one that
        counts: another dispatcher may have kept its own meanwhile.
        """
        for mark in marks:
            self._client.hsetnx(OWNERS, mark, owner)
        return self.known(marks) or owner

    def others(self) -> list[str]:
        """Return all owners that were kept, and those of attempts that hold slots."""
        kept: list[str] = self._client.hvals(OWNERS)  # type: ignore[assignment]
        held = {owner for name in self._reader.classes() for owner in self.holding(name)}
        return sorted({*kept, *held} - {""})

    def holding(self, gpu_class: str) -> Counter[str]:
        """Return owner → number of slots that its attempts hold; "": attempts on a machine."""
        deliveries = [attempt.delivery for attempt, _ in self._reader.holders(gpu_class)]
        found: Counter[str] = Counter()
        for record in self._reader.records(gpu_class, deliveries):
            found[record.get("owner", "")] += record.get("gpus", 1)
        return found

    def live(self, gpu_class: str) -> set[str]:
        """Return the owners with a live dispatcher of the class."""
        found: Mapping[str, str] = self._client.hgetall(class_key(gpu_class, "terms"))  # type: ignore[assignment]
        now, live = redis_time(self._client), set[str]()
        for site, text in found.items():
            try:
                terms = json.loads(text)
                is_owner, until = "owner" in terms["spec"], float(terms["until"])
            except (ValueError, TypeError, KeyError):
                continue
            if is_owner and until > now:
                live.add(site)
        return live

    def by_node(self) -> dict[str, tuple[str, list[str]]]:
        """Return class → the cluster whose nodes are its domains, and the others with a live
        dispatcher, which start none of its jobs. Only classes that have such.
        """
        found: dict[str, tuple[str, list[str]]] = {}
        for name in self._reader.classes():
            owner: str | None = self._client.hget(class_key(name, "gate"), "nodes_of")  # type: ignore[assignment]
            if owner and (others := sorted(self.live(name) - {owner})):
                found[name] = owner, others
        return found

    def unowned(self, classes: Iterable[str] | None = None) -> dict[tuple[str, str], int]:
        """Return (class, owner) → slots of attempts that no live dispatcher looks after, in classes
        that another one serves.
        """
        found: dict[tuple[str, str], int] = {}
        for name in self._reader.classes() if classes is None else classes:
            held = self.holding(name)
            if not any(held) or not (live := self.live(name)):
                continue
            for owner, slots in held.items():
                if owner and owner not in live:
                    found[name, owner] = slots
        return found

    def take_over(self, gpu_class: str, owner: str, by: str) -> int:
        """Make the attempts of an owner those of another one; return the number of slots."""
        taken: int = self._scripts.call("take_over", gpu_class, owner=owner, by=by)
        return taken
