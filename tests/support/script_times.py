"""How long scripts keep a Redis from its other callers: CPU time, which no busy machine adds to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis


def cpu_seconds(client: redis.Redis) -> float:
    """Return the CPU time that the thread of the commands of a server has used."""
    found: Any = client.info("cpu")
    return float(found["used_cpu_user_main_thread"]) + float(found["used_cpu_sys_main_thread"])


class Times:
    """The longest of some calls. Calling it measures a call, and returns what that returns."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.longest = 0.0

    def __call__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before = cpu_seconds(self._client)
        answer = call(*args, **kwargs)
        self.longest = max(self.longest, cpu_seconds(self._client) - before)
        return answer
