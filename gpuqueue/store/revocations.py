"""Revoked stamps: Celery's ``revoke_by_stamped_headers``. Revoked task ids are in the keys of each
class (see cancel.lua).
"""

from __future__ import annotations

from collections.abc import Iterable

import redis

from gpuqueue.store.clock import redis_time
from gpuqueue.store.keys import REVOKED_STAMPS, revoking_key

#: Marks written, read or removed by one command, so that it stays short.
BATCH = 500
#: Seconds for which one dispatcher alone looks for the jobs of a revoke: far above one batch, after
#: which it says that it goes on.
CLAIM = 10
#: Seconds for which other dispatchers, which got the same revoke, leave it alone.
DONE = 5


def revoke_stamps(client: redis.Redis, stamps: dict[str, list[str]], forget_after: float) -> None:
    """Remember revoked stamps (header → values) for jobs that arrive later, and forget those that
    were revoked more than ``forget_after`` seconds ago.
    """
    now = redis_time(client)
    fields = [f"{header}={value}" for header, values in stamps.items() for value in values]
    for some in _batched(fields):
        client.hset(REVOKED_STAMPS, mapping=dict.fromkeys(some, now))
    old = [
        field
        for field, revoked in client.hscan_iter(REVOKED_STAMPS, count=BATCH)
        if float(revoked) < now - forget_after
    ]
    for some in _batched(old):
        client.hdel(REVOKED_STAMPS, *some)


def stamps_revoked(client: redis.Redis, stamps: dict[str, list[str]], forget_after: float) -> bool:
    """Whether any of a message's stamps was revoked within the last ``forget_after`` seconds."""
    fields = [f"{header}={value}" for header, values in stamps.items() for value in values]
    found: list[str | None] = client.hmget(REVOKED_STAMPS, fields) if fields else []  # type: ignore[assignment]
    times = [float(revoked) for revoked in found if revoked is not None]
    return bool(times) and max(times) >= redis_time(client) - forget_after


def claim(client: redis.Redis, gpu_class: str, revoke: str) -> bool | None:
    """Claim the jobs of a class for a revoke. None: another dispatcher has found them already."""
    key = revoking_key(gpu_class, revoke)
    if client.set(key, "claimed", nx=True, ex=CLAIM):
        return True
    return None if client.get(key) == "done" else False


def keep_claim(client: redis.Redis, gpu_class: str, revoke: str) -> None:
    """Go on to look for the jobs of a revoke."""
    client.set(revoking_key(gpu_class, revoke), "claimed", ex=CLAIM)


def end_claim(client: redis.Redis, gpu_class: str, revoke: str) -> None:
    """All jobs of a revoke are found."""
    client.set(revoking_key(gpu_class, revoke), "done", ex=DONE)


def _batched(fields: list[str]) -> Iterable[list[str]]:
    return (fields[first : first + BATCH] for first in range(0, len(fields), BATCH))
