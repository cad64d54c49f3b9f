"""The ends of attempts' logs, kept beyond their pods."""

from __future__ import annotations

import redis

from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.job import Record
from gpuqueue.model.names import holder_name
from gpuqueue.store.keys import log_key


class Logs:
    """Keeps one text per attempt. The newest replaces what was kept before."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def keep(self, gpu_class: str, holder: str, text: str, seconds: float) -> None:
        """Keep a log's end for so many seconds."""
        self._client.set(log_key(gpu_class, holder), text, ex=max(1, int(seconds)))

    def has(self, gpu_class: str, holder: str) -> bool:
        """Whether anything is kept."""
        return bool(self._client.exists(log_key(gpu_class, holder)))

    def read(self, gpu_class: str, holder: str) -> str | None:
        """Return what is kept, None if nothing is."""
        found: str | None = self._client.get(log_key(gpu_class, holder))  # type: ignore[assignment]
        return found

    def for_result(self, gpu_class: str, record: Record) -> str:
        """Return what of a job's log is part of its result: a container job's."""
        if record["task"] != CONTAINER_TASK or not record.get("attempt"):
            return ""
        return self.read(gpu_class, holder_name(record["delivery"], record["attempt"])) or ""
