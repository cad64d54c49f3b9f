"""A plain Celery application that sends its tasks with the serializer PARCELS_SERIALIZER, and
accepts that and JSON. It has a type and a serializer that it registers with kombu.
"""

import json
import os
import signal
import zlib
from dataclasses import dataclass
from typing import Any, NoReturn

import redis
from celery import Celery, Task
from celery.app.task import Context
from kombu.serialization import register
from kombu.utils.json import dumps, loads, register_type

URL = os.environ["CELERY_BROKER_URL"]
SERIALIZER = os.environ.get("PARCELS_SERIALIZER", "json")


@dataclass(frozen=True)
class Fruit:
    name: str
    grams: int


register_type(Fruit, "parcels.fruit", lambda each: vars(each), lambda found: Fruit(**found))
register(
    "tight",
    lambda data: zlib.compress(dumps(data).encode()),
    lambda raw: loads(zlib.decompress(raw)),
    content_type="application/x-tight",
    content_encoding="binary",
)

app = Celery("parcels", broker=URL, backend=URL)
app.conf.task_serializer = SERIALIZER
app.conf.accept_content = sorted({SERIALIZER, *json.loads(os.environ.get("PARCELS_ALSO", "[]"))})
app.conf.result_accept_content = ["json"]
app.conf.result_chord_join_timeout = 20
database = redis.Redis.from_url(URL, socket_timeout=70)


def tell(key: str, value: object) -> None:
    database.rpush(f"told:{key}", dumps(value))


@app.task
def echo(value: Any) -> Any:
    return value


@app.task
def names(*args: Any, **kwargs: Any) -> list[str]:
    """Answers the types of its arguments, which may be no JSON."""
    return [type(each).__name__ for each in (*args, *kwargs.values())]


@app.task
def total(numbers: list[int], more: int = 0) -> int:
    return sum(numbers) + more


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(bind=True)
def hold(self: Task, key: str, *values: Any) -> Any:
    tell(key, self.request.id)
    database.blpop([f"go:{key}"], timeout=60)
    return values


@app.task(bind=True)
def again(self: Task, value: Any) -> Any:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return value


@app.task
def fail(value: Any) -> NoReturn:
    raise ValueError("no")


@app.task
def die(value: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def pass_on(value: Any, key: str, note: Any = None) -> Any:
    tell(key, [value, note])
    return value


@app.task
def errback(request: Context, exc: Exception, traceback: object, key: str, note: Any) -> None:
    tell(key, [request.id, type(exc).__name__, request.args, note])
