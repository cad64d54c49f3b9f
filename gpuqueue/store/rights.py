"""Whether the Redis users of a dispatcher have its rights. Checked once at the start, and by
`gpuqueue doctor`.

Each check does what only the dispatcher's user in deploy/redis/users.acl may do. None changes
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import ServerUnreachable
from gpuqueue.store.client import connect, explained, forbidden
from gpuqueue.store.reader import Reader

#: The user in users.acl that has the rights.
USER = "gpuqueue-dispatcher"
#: A class, a queue and a result that do not exist.
_CLASS = GpuClass("gpuqueue-check", shared_slots=1)
_QUEUE = "gpu.gpuqueue-check"
_RESULT = "celery-task-meta-gpuqueue-check"


def refused(
    state: str, broker: str | None, backend: str | None, setting: str
) -> Iterator[ServerUnreachable]:
    """Yield an error for each address that refuses its user: that of the state (in ``setting``), of
    the broker, and of a result backend in Redis.

    An address that does not answer is left out.
    """
    checks = [(state, setting, _state)]
    checks += [(broker, "CELERY_BROKER_URL", _broker)] if broker else []
    checks += [(backend, "CELERY_RESULT_BACKEND", _backend)] if backend else []
    for url, name, check in checks:
        if not url.startswith(("redis", "unix")):
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


def _broker(client: redis.Redis) -> None:
    client.rpop(_QUEUE)


def _backend(client: redis.Redis) -> None:
    client.get(_RESULT)
