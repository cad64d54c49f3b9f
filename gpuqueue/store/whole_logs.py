"""Which whole logs of attempts are to be written to the sink, are there, or are missing.

Beside the sink, not in place of it: the notes of written and missing logs end with the tombstone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

import redis

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.log_sink import object_name
from gpuqueue.store.clock import redis_time
from gpuqueue.store.keys import due_logs_key, missing_logs_key, whole_log_key

#: Missing logs of a class that are remembered.
MOST_MISSING = 1000


@dataclass(frozen=True, slots=True)
class DueLog:
    """A log to write. ``at``: when the attempt's end was first seen, in Unix seconds. ``where``
    tells a launcher how to read it. ``error``: why it is not written yet. ``by``: the dispatcher
    that has it; empty: any.
    """

    name: str
    at: float
    where: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class SunkLog:
    """What became of a log: written as ``name``, or ``missing`` and why."""

    name: str
    bytes: int = 0
    missing: str = ""


class WholeLogNotes:
    """The notes in Redis. Thread-safe.

    Args:
        keep: seconds for which the notes of written and missing logs are kept.
        by: the dispatcher that notes logs.
    """

    def __init__(self, client: redis.Redis, keep: float = 0.0, by: str = "") -> None:
        self._client = client
        self._by = by
        self._keep = max(1, int(keep))

    def due(self, attempt: Attempt, where: Mapping[str, str]) -> bool:
        """Note that a log is to be written; the first note of an attempt stays. Return False if
        the log is written.
        """
        if self.result(attempt):
            return False
        at = redis_time(self._client)
        note = DueLog(object_name(attempt, at), at, dict(where), by=self._by)
        key, text = due_logs_key(attempt.gpu_class), _text(note)
        if self._by:
            self._client.hsetnx(key, attempt.holder, text)
        else:  # an executor, alone with its attempt
            self._client.hset(key, attempt.holder, text)
        return True

    def due_of(self, attempt: Attempt) -> DueLog | None:
        """Return the note of a log that is to be written."""
        found: Any = self._client.hget(due_logs_key(attempt.gpu_class), attempt.holder)
        return _read(DueLog, found)

    def all_due(self, classes: Iterable[str]) -> dict[Attempt, DueLog]:
        """Return all logs that are to be written."""
        return {
            attempt: note
            for name in classes
            for holder, text in self._hash(due_logs_key(name)).items()
            if (attempt := Attempt.parse(name, holder)) and (note := _read(DueLog, text))
        }

    def failed(self, attempt: Attempt, note: DueLog, error: str) -> None:
        """Note why a log is not written yet."""
        if note.error != error:
            new = replace(note, error=error, by=self._by)
            self._client.hset(due_logs_key(attempt.gpu_class), attempt.holder, _text(new))

    def written(self, attempt: Attempt, name: str, size: int) -> None:
        """Note that a log is written, with ``size`` bytes."""
        self._ends(attempt, SunkLog(name, size))

    def missing(self, attempt: Attempt, why: str) -> None:
        """Note that a log will not be written."""
        self._ends(attempt, SunkLog("", missing=why))
        key, now = missing_logs_key(attempt.gpu_class), redis_time(self._client)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zadd(key, {attempt.holder: now})
            pipe.zremrangebyscore(key, "-inf", now - self._keep)
            pipe.expire(key, self._keep)
            pipe.zrange(key, 0, -MOST_MISSING - 1)
            oldest = pipe.execute()[-1]
        if oldest:
            self._client.zrem(key, *oldest)

    def result(self, attempt: Attempt) -> SunkLog | None:
        """Return what became of a log; None if that is not known."""
        found: Any = self._client.get(whole_log_key(attempt.gpu_class, attempt.holder))
        return _read(SunkLog, found)

    def forget(self, attempt: Attempt) -> None:
        """Forget that a log is to be written."""
        self._client.hdel(due_logs_key(attempt.gpu_class), attempt.holder)

    def all_missing(self, classes: Iterable[str]) -> list[Attempt]:
        """Return the attempts whose log is missing, newest first within a class."""
        found: list[Attempt] = []
        for name in classes:
            holders: Any = self._client.zrange(missing_logs_key(name), 0, -1)
            found += filter(None, (Attempt.parse(name, holder) for holder in holders[::-1]))
        return found

    def _ends(self, attempt: Attempt, result: SunkLog) -> None:
        key = whole_log_key(attempt.gpu_class, attempt.holder)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.set(key, _text(result), ex=self._keep)
            pipe.hdel(due_logs_key(attempt.gpu_class), attempt.holder)
            pipe.execute()

    def _hash(self, key: str) -> dict[str, str]:
        found: Any = self._client.hgetall(key)
        return dict(found)


T = TypeVar("T", DueLog, SunkLog)


def _text(note: DueLog | SunkLog) -> str:
    return json.dumps(asdict(note), separators=(",", ":"))


def _read(kind: type[T], text: Any) -> T | None:
    """Return a note, also of a newer version; None: there is none that can be read."""
    try:
        known = json.loads(text) if text else {}
        return kind(**{each.name: known[each.name] for each in fields(kind) if each.name in known})
    except (ValueError, TypeError):
        return None
