"""All that the queue and its broker keep in Redis, as JSON, and back into another Redis at another
time.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis

#: What stands for the name of the machine: its processes are gone wherever the state is loaded.
HOST = "HOST"
#: Keys of the queue, of its broker, and of results; what the tasks of a test tell is left out.
_KEPT = ("gpuqueue*", "gpu.*", "celery-task-meta-*", "_kombu.binding.gpu*")

Kept = dict[str, Any]


def dump(client: redis.Redis, words: Mapping[str, str]) -> Kept:
    """Return everything, with the time of now (Unix seconds) and the milliseconds that keys have
    left.

    ``words`` stand for what is this machine's own.
    """
    text = json.dumps(
        {"at": time.time(), "keys": {key: _read(client, key) for key in _names(client)}}
    )
    for real, word in {**words, socket.gethostname(): HOST}.items():
        text = text.replace(real, word)
    return json.loads(text)  # type: ignore[no-any-return]


def load(client: redis.Redis, kept: Kept) -> None:
    """Write everything as if it had been read just now: every time is moved by how long ago it was
    read.
    """
    by = time.time() - kept["at"]
    for key, (kind, content, left) in json.loads(
        json.dumps(kept["keys"]).replace(HOST, socket.gethostname())
    ).items():
        if kind == "string":
            client.set(key, _moved(content, by))
        elif kind == "hash":
            client.hset(key, mapping={name: _moved(text, by) for name, text in content.items()})
        elif kind == "zset":
            client.zadd(
                key, {name: score + by if _is_time(score) else score for name, score in content}
            )
        elif kind == "list":
            client.rpush(key, *content)
        else:
            client.sadd(key, *content)
        if left > 0:
            client.pexpire(key, left)


def _names(client: redis.Redis) -> list[str]:
    return sorted({key for pattern in _KEPT for key in client.scan_iter(pattern)})


def _read(client: redis.Redis, key: str) -> tuple[str, Any, int]:
    kind: Any = client.type(key)
    read: dict[str, Callable[[], Any]] = {
        "string": lambda: client.get(key),
        "hash": lambda: client.hgetall(key),
        "zset": lambda: client.zrange(key, 0, -1, withscores=True),
        "list": lambda: client.lrange(key, 0, -1),
        "set": lambda: sorted(client.smembers(key)),
    }
    return kind, read[kind](), client.pttl(key)


def _is_time(value: object) -> bool:
    # Unix seconds, and nothing else that is kept: ranks are below, or beyond.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 1e9 < value < 1e10


def _moved(text: str, by: float) -> str:
    """Move the times of a value: of a number, or of a record's fields; a Celery message has none
    that is still read.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if _is_time(value):
        return repr(value + by)
    if isinstance(value, dict) and "delivery" in value:
        return json.dumps(
            {name: each + by if _is_time(each) else each for name, each in value.items()}
        )
    return text
