"""The time of Redis: the only clock that times in the state are compared with, since the clocks of
machines differ. ``time.monotonic`` measures durations within one process.
"""

from __future__ import annotations

import redis


def redis_time(client: redis.Redis) -> float:
    """Return the time of Redis in Unix seconds."""
    seconds, microseconds = client.time()
    return float(seconds) + microseconds / 1e6
