"""Read the GPU memory that tasks have used; see lua/lib/task_memory.lua."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import redis

from gpuqueue.model.task_memory import MEASURED, TaskMemory, merged
from gpuqueue.store.keys import class_key


def used(client: redis.Redis, classes: Iterable[str], now: float) -> list[TaskMemory]:
    """Return what the tasks of some classes have used, each task and tenant once. ``now`` is the
    time of Redis.
    """
    since = now - MEASURED["seconds"]
    found = (each for name in classes for each in _of_class(client, name))
    return merged(each for each in found if each.at >= since)


def _of_class(client: redis.Redis, gpu_class: str) -> Iterator[TaskMemory]:
    kept: dict[str, str] = client.hgetall(class_key(gpu_class, "task_memory"))  # type: ignore[assignment]
    for name, text in kept.items():
        try:
            entry = TaskMemory.parse(json.loads(name), json.loads(text))
        except ValueError:
            continue
        if entry is not None:
            yield entry
