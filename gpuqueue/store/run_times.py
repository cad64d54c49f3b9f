"""How long the jobs of a class have run of late."""

from __future__ import annotations

import statistics
from typing import Any

import redis

from gpuqueue.store.keys import class_key
from gpuqueue.store.snapshot_texts import seconds_of

#: Tasks that are looked at, those that ran last first, and how many of their latest runs count.
TASKS, RUNS = 16, 8


def recent_run_time(client: redis.Redis, gpu_class: str, isolation: str) -> float | None:
    """Return the mean of the latest attempts of the tasks of a class that ran last, in seconds;
    None: none has ended there, or they cannot be read: no job fails for it.
    """
    try:
        runs = _latest(client, gpu_class, isolation)
    except redis.ResponseError:
        return None
    return statistics.fmean(runs) if runs else None


def _latest(client: redis.Redis, gpu_class: str, isolation: str) -> list[float]:
    # An entry of all tenants and one of the own, for each task and isolation.
    latest: Any = client.zrange(class_key(gpu_class, "run_times_last"), 0, 4 * TASKS - 1, desc=True)
    names = [each for each in latest if each.startswith(f"{isolation}:*:")][:TASKS]
    texts: Any = client.hmget(class_key(gpu_class, "run_times"), names) if names else []
    return [seconds for text in texts for seconds in seconds_of(text)[:RUNS]]
