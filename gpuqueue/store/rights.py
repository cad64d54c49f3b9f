"""Whether the Redis users of a dispatcher have its rights. Checked once at the start, and by
`gpuqueue doctor`.

Each check does what only the dispatcher's user in deploy/redis/users.acl may do. None changes
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import ServerUnreachable
from gpuqueue.model.celery_redis import BACKEND, BROKER, CeleryRedis
from gpuqueue.model.redis_url import is_redis
from gpuqueue.store.client import connect, explained
from gpuqueue.store.passing import forbidden
from gpuqueue.store.reader import Reader

#: The user in users.acl that has the rights.
USER = "gpuqueue-dispatcher"
#: A class, a queue and a result that do not exist.
_CLASS = GpuClass("gpuqueue-check", shared_slots=1)
_QUEUE = "gpu.gpuqueue-check"
_RESULT = "celery-task-meta-gpuqueue-check"


def refused(where: CeleryRedis, setting: str) -> Iterator[ServerUnreachable]:
    """Yield an error for each address that refuses its user: that of the state (in ``setting``), of
    the broker, and of a result backend in Redis.

    An address that does not answer is left out.
    """
    checks = (
        (where.state, setting, _state),
        (where.broker, BROKER, partial(_broker, where.broker_prefix)),
        (where.backend, BACKEND, partial(_backend, where.backend_prefix)),
    )
    for url, name, check in checks:
        if not is_redis(url):
            continue
        if error := _error(url, name, check):
            yield error


def _error(
    url: str, setting: str, check: Callable[[redis.Redis], object]
) -> ServerUnreachable | None:
    client = connect(url, timeout=5, retries=0)
    try:
        check(client)
    except redis.RedisError as exc:
        refuses = forbidden(exc) or isinstance(exc, redis.AuthenticationError)
        return explained(exc, url, setting, USER) if refuses else None
    finally:
        client.close()
    return None


def _state(client: redis.Redis) -> None:
    reader = Reader(client)
    reader.todo(_CLASS.name, 0)
    reader.why(_CLASS, "gpuqueue-check")
    reader.leaders()


def _broker(prefix: str, client: redis.Redis) -> None:
    client.rpop(prefix + _QUEUE)


def _backend(prefix: str, client: redis.Redis) -> None:
    client.get(prefix + _RESULT)
