"""Nodes that an operator has confirmed gone, by class: the word ends the attempts there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import redis

from gpuqueue.store.clock import redis_time
from gpuqueue.store.keys import gone_key

#: Seconds after which such a word is forgotten: no pod of then is left.
FORGET = 30 * 86_400.0


def confirm(client: redis.Redis, gpu_class: str, node: str) -> float:
    """Confirm that a node is gone, with all that runs there now. Returns when, in Unix seconds."""
    key, now = gone_key(gpu_class), redis_time(client)
    old = [name for name, at in of(client, [gpu_class]).items() if now - at > FORGET]
    if old:
        client.hdel(key, *(name for _, name in old))
    client.hset(key, node, repr(now))
    return now


def of(client: redis.Redis, classes: Iterable[str]) -> Mapping[tuple[str, str], float]:
    """Return (class, node) → when it was confirmed gone, in Unix seconds."""
    names = list(classes)
    pipe = client.pipeline(transaction=False)
    for name in names:
        pipe.hgetall(gone_key(name))
    found = {}
    for name, words in zip(names, pipe.execute() if names else (), strict=True):
        for node, at in words.items():
            with suppress(ValueError):  # no word of ours
                found[name, node] = float(at)
    return found
