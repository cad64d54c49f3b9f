"""Revoked stamps: Celery's ``revoke_by_stamped_headers``, for jobs that arrive later. Revoked task
ids are in the keys of each class (see cancel.lua).
"""

from __future__ import annotations

import redis

from gpuqueue.store.keys import REVOKED_STAMPS


def revoke_stamps(client: redis.Redis, stamps: dict[str, list[str]], now: float) -> None:
    """Remember revoked stamps (header → values) for jobs that arrive later."""
    client.hset(
        REVOKED_STAMPS,
        mapping={f"{header}={value}": now for header, values in stamps.items() for value in values},
    )


def stamps_revoked(client: redis.Redis, stamps: dict[str, list[str]], since: float) -> bool:
    """Whether any of a message's stamps was revoked after a time (Unix seconds)."""
    fields = [f"{header}={value}" for header, values in stamps.items() for value in values]
    found: list[str | None] = client.hmget(REVOKED_STAMPS, fields) if fields else []  # type: ignore[assignment]
    return any(revoked is not None and float(revoked) >= since for revoked in found)
