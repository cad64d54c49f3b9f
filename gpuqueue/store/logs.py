"""The ends of attempts' logs, kept beyond their pods."""

from __future__ import annotations

import redis

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.record import Record
from gpuqueue.store.keys import log_key


class Logs:
    """Keeps one text per attempt. The newest replaces what was kept before."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def keep(self, attempt: Attempt, text: str, seconds: float) -> None:
        """Keep a log's end for so many seconds."""
        self._client.set(log_key(attempt.gpu_class, attempt.holder), text, ex=max(1, int(seconds)))

    def has(self, attempt: Attempt) -> bool:
        """Whether anything is kept."""
        return bool(self._client.exists(log_key(attempt.gpu_class, attempt.holder)))

    def read(self, attempt: Attempt) -> str | None:
        """Return what is kept, None if nothing is."""
        found: str | None = self._client.get(log_key(attempt.gpu_class, attempt.holder))  # type: ignore[assignment]
        return found

    def for_result(self, record: Record) -> str:
        """Return what of a job's log is part of its result: a container job's."""
        if record["task"] != CONTAINER_TASK or not record.get("attempt"):
            return ""
        return self.read(Attempt.of(record)) or ""
