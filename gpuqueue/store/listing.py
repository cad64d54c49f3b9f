"""Lists of jobs for operators: a bounded number, with their messages if these are small.

Never here: a message of any size. A sender decides it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.names import ISOLATIONS
from gpuqueue.model.record import Record
from gpuqueue.store.clock import redis_time
from gpuqueue.store.domains import Domains
from gpuqueue.store.keys import CONSUMED, class_key
from gpuqueue.store.readable import readable, readable_record
from gpuqueue.store.reader import Reader

#: Jobs of one list: of those that run, whose number slots limit, and of the others.
MOST_RUNNING, MOST = 500, 100
#: The longest message that is read, in characters.
LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Listed:
    """A job, and its message; None: too long, or gone. ``at`` is the time by which it is listed."""

    record: Record
    message: dict[str, Any] | None
    at: float = 0.0


class Listing:
    """Lists jobs of a class."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._reader = Reader(client)

    def running(self, gpu_class: str) -> list[Listed]:
        """Return the jobs that hold a slot, and since when."""
        return self._listed(gpu_class, self._running(gpu_class))

    def tasks(self, gpu_class: str) -> set[str]:
        """Return the tasks of the jobs that run, and of the first ones in line."""
        found = [*self._running(gpu_class), *self._waiting(gpu_class)]
        records = self._reader.records(gpu_class, [delivery for delivery, _ in found])
        return {record["task"] for record in records if "task" in record}

    def slots(self, gpu_class: str) -> list[str]:
        """Return the names that hold a slot."""
        return [name for _, name, _ in self._reader.holder_names(gpu_class)]

    def slots_of(self, gpu_class: GpuClass) -> dict[str, int]:
        """Return how many slots a class has, by isolation."""
        return Domains(self._client).slots(gpu_class)

    def waiting(self, gpu_class: str) -> list[Listed]:
        """Return the first jobs in line of each isolation, after those that are not in line yet."""
        return self._listed(gpu_class, self._waiting(gpu_class))

    def delayed(self, gpu_class: str) -> list[Listed]:
        """Return the jobs that may start later, the next one first, and when."""
        found: Any = self._client.zrange(
            class_key(gpu_class, "delayed"), 0, MOST - 1, withscores=True
        )
        return self._listed(gpu_class, found)

    def of(self, gpu_class: str, job_ids: Iterable[str]) -> list[Listed]:
        """Return the newest deliveries of jobs that the class knows."""
        names = list(job_ids)[:MOST]
        if not names:
            return []
        newest: list[str | None] = self._client.hmget(class_key(gpu_class, "latest"), names)  # type: ignore[assignment]
        found = [(new or name, 0.0) for new, name in zip(newest, names, strict=True)]
        return self._listed(gpu_class, found)

    def consumed(self, seconds: float) -> list[str]:
        """Return the queues whose messages a dispatcher takes that had a heartbeat within the last
        ``seconds``.
        """
        since = redis_time(self._client) - seconds
        found: Any = self._client.zrangebyscore(CONSUMED, since, "+inf")
        return sorted(found)

    def revoked(self, gpu_class: str) -> list[str]:
        """Return the newest ids that were revoked before their job was accepted."""
        found: Any = self._client.zrange(class_key(gpu_class, "revoked_until"), -MOST, -1)
        return list(found)

    def _running(self, gpu_class: str) -> list[tuple[str, float]]:
        found = [(attempt.delivery, since) for attempt, since in self._reader.holders(gpu_class)]
        return found[:MOST_RUNNING]

    def _waiting(self, gpu_class: str) -> list[tuple[str, float]]:
        names = ("accepted", *(f"waiting_{each}" for each in ISOLATIONS))
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.zrange(class_key(gpu_class, name), 0, MOST - 1)
        return [(delivery, 0.0) for part in pipe.execute() for delivery in part][:MOST]

    def _listed(self, gpu_class: str, found: Sequence[tuple[str, float]]) -> list[Listed]:
        if not found:
            return []
        names = [delivery for delivery, _ in found]
        texts: list[str | None] = self._client.hmget(class_key(gpu_class, "jobs"), names)  # type: ignore[assignment]
        messages = self._small_messages(gpu_class, names)
        return [
            Listed(record, messages.get(delivery), at)
            for (delivery, at), text in zip(found, texts, strict=True)
            if (record := readable_record(text, gpu_class))
        ]

    def _small_messages(self, gpu_class: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        key = class_key(gpu_class, "messages")
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hstrlen(key, name)
        try:
            lengths = pipe.execute()
        except redis.exceptions.NoPermissionError:  # of a user of an older version
            return {}
        small = [name for name, length in zip(names, lengths, strict=True) if 0 < length <= LONGEST]
        if not small:
            return {}
        texts: list[str | None] = self._client.hmget(key, small)  # type: ignore[assignment]
        found = {name: readable(text) for name, text in zip(small, texts, strict=True)}
        return {name: message for name, message in found.items() if message}
