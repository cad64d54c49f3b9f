"""Whether a dispatcher's users of Redis may do what dispatchers do: looked at once, at the start,
and by the doctor.

Each look is of what other users of deploy/redis/users.acl may not; none changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import ServerUnreachable
from gpuqueue.store.client import connect, explained, forbidden
from gpuqueue.store.reader import Reader

#: Whose rights are wanted, for messages.
WANTED = "gpuqueue-dispatcher's"
#: A class, a queue and a result that nobody has.
_NOBODY = GpuClass("gpuqueue-check", shared_slots=1)
_QUEUE = "gpu.gpuqueue-check"
_RESULT = "celery-task-meta-gpuqueue-check"


def refused(
    state: str, broker: str | None, backend: str | None, setting: str
) -> Iterator[ServerUnreachable]:
    """Yield what is refused, of the state's address (that of ``setting``), the broker's, and a
    result backend in Redis.

    An address that does not answer is none of its business.
    """
    looks = [(state, setting, _state)]
    looks += [(broker, "CELERY_BROKER_URL", _broker)] if broker else []
    looks += [(backend, "CELERY_RESULT_BACKEND", _backend)] if backend else []
    for url, name, look in looks:
        if not url.startswith(("redis", "unix")):
            continue
        if found := _look(url, name, look):
            yield found


def _look(
    url: str, setting: str, look: Callable[[redis.Redis], object]
) -> ServerUnreachable | None:
    client = connect(url, timeout=5, retries=0)
    try:
        look(client)
    except redis.RedisError as exc:
        refuses = forbidden(exc) or isinstance(exc, redis.AuthenticationError)
        return explained(exc, url, setting, WANTED) if refuses else None
    finally:
        client.close()
    return None


def _state(client: redis.Redis) -> None:
    reader = Reader(client)
    reader.todo(_NOBODY.name, 0)
    reader.why(_NOBODY, "nobody")
    reader.leaders()


def _broker(client: redis.Redis) -> None:
    client.brpop([_QUEUE], timeout=0.01)


def _backend(client: redis.Redis) -> None:
    client.get(_RESULT)
