"""How leaders are woken before their next turn: one list per class, which they block on."""

from __future__ import annotations

from collections.abc import Iterable

import redis

from gpuqueue.store.keys import wake_key

#: How many tokens a list has: more would add nothing.
MOST = 8


def wake(client: redis.Redis, gpu_class: str) -> None:
    """Wake the leader of a class. Executors may do so, too: they may not shorten a list."""
    if client.llen(wake_key(gpu_class)) < MOST:
        client.lpush(wake_key(gpu_class), "1")


def wait(client: redis.Redis, classes: Iterable[str], seconds: float) -> str | None:
    """Block until one of the classes is woken, for ``seconds`` at most (at least 0.01: to Redis, 0
    means without a limit). Returns the class; None: none was woken.

    The client's timeout must be longer.
    """
    names = {wake_key(name): name for name in classes}
    found: list[str] | None = client.blpop(list(names), timeout=max(0.01, seconds))  # type: ignore[assignment]
    return names[found[0]] if found else None
