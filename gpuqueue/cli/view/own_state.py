"""What running tasks say of themselves: a state that the task has set, such as PROGRESS, from the
result backend.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from redis import RedisError

from gpuqueue.cli.view.state import TIMEOUT, State
from gpuqueue.model.redis_url import is_redis
from gpuqueue.store.client import connect

#: States of Celery and of gpuqueue: no task sets them itself.
_KNOWN = {
    *("PENDING", "RECEIVED", "STARTED", "SUCCESS", "FAILURE", "REVOKED", "REJECTED", "RETRY"),
    *("IGNORED", "QUEUED", "DISPATCHED"),
}
#: Bytes of a state that is read.
LONGEST = 65_536


def own_states(state: State, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return job id → ``task_state`` and ``task_info`` of the jobs whose tasks have set one. Empty
    if the result backend is no Redis, cannot be read, or has another form.
    """
    where = state.settings.redis
    if not (ids and is_redis(where.backend)):
        return {}
    keys = [f"{where.backend_prefix}celery-task-meta-{each}" for each in ids]
    try:
        client = state.client
        if where.backend != where.state:
            client = connect(where.backend, timeout=TIMEOUT, retries=0)
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.strlen(key)
        short = [i for i, length in enumerate(pipe.execute()) if 0 < length <= LONGEST]
        values = client.mget([keys[i] for i in short]) if short else []
    except (RedisError, UnicodeDecodeError):
        return {}
    found = {ids[i]: _own(value) for i, value in zip(short, values, strict=True)}
    return {each: known for each, known in found.items() if known}


def _own(value: Any) -> dict[str, Any]:
    try:
        meta = json.loads(value)
        status, info = meta["status"], meta.get("result")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    if not isinstance(status, str) or status in _KNOWN:
        return {}
    return {"task_state": status, "task_info": info}


def shown(found: dict[str, Any], most: int = 200) -> str:
    """Return the state of a task for people, in one line."""
    info = found.get("task_info")
    text = found["task_state"] if info is None else f"{found['task_state']} {json.dumps(info)}"
    return text if len(text) <= most else f"{text[:most]}…"
