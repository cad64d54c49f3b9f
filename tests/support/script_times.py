"""How long scripts keep a Redis from its other callers: CPU time, which no busy machine adds to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from gpuqueue.store.scripts import Scripts


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


@contextmanager
def script_times(client: redis.Redis) -> Iterator[dict[str, float]]:
    """Yield verb → the CPU time of its longest script, in seconds, of those called within."""
    longest: dict[str, float] = defaultdict(float)
    run, each = Scripts._run, Scripts.each

    def measured(verb: str, call: Callable[..., Any], *args: Any) -> Any:
        times = Times(client)
        answer = times(call, *args)
        longest[verb] = max(longest[verb], times.longest)
        return answer

    def one(self: Scripts, verb: str, *args: Any) -> Any:
        return measured(verb, run, self, verb, *args)

    def one_by_one(self: Scripts, verb: str, calls: Any) -> list[Any]:
        return [measured(verb, each, self, verb, [call])[0] for call in calls]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scripts, "_run", one)
        patch.setattr(Scripts, "each", one_by_one)
        yield longest
