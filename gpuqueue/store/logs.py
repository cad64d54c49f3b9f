"""The end of each attempt's log, kept longer than its pod."""

from __future__ import annotations

import redis

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.record import Record
from gpuqueue.store.keys import log_key


class Logs:
    """Keeps one text per attempt. A newer text replaces it."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def keep(self, attempt: Attempt, text: str, seconds: float) -> None:
        """Keep the end of a log for ``seconds``."""
        self._client.set(log_key(attempt.gpu_class, attempt.holder), text, ex=max(1, int(seconds)))

    def has(self, attempt: Attempt) -> bool:
        """Whether a text is kept."""
        return bool(self._client.exists(log_key(attempt.gpu_class, attempt.holder)))

    def read(self, attempt: Attempt) -> str | None:
        """Return the text; None if none is kept."""
        found: str | None = self._client.get(log_key(attempt.gpu_class, attempt.holder))  # type: ignore[assignment]
        return found

    def for_result(self, record: Record) -> str:
        """Return the log that is part of a job's result: that of a container job, else empty."""
        if record["task"] != CONTAINER_TASK or not record.get("attempt"):
            return ""
        return self.read(Attempt.of(record)) or ""
