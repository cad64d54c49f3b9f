"""A time that tests and benchmarks set in place of that of Redis: scripts read it from a key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from pytest import MonkeyPatch

from gpuqueue.store import scripts

KEY = "model-time"
_CLOCK = f"""
local now = redis.call('GET', '{KEY}')
if now then
  now = tonumber(now)
else
  now = redis.call('TIME')
  now = now[1] + now[2] / 1000000
end
"""


@contextmanager
def model_time() -> Iterator[None]:
    """Scripts loaded meanwhile take the time of :class:`Timed`, where it is set."""
    library = scripts._library

    def with_model(part: str) -> str:
        return _CLOCK if part == "clock" else library(part)

    with MonkeyPatch.context() as patch:
        patch.setattr(scripts, "_library", with_model)
        scripts.script.cache_clear()
        yield
    scripts.script.cache_clear()


class Timed:
    """Has a time in Unix seconds, ``now``, which its Redis keeps."""

    client: redis.Redis
    _now = 0.0

    @property
    def now(self) -> float:
        return self._now

    @now.setter
    def now(self, now: float) -> None:
        self._now = now
        self.client.set(KEY, repr(now))
