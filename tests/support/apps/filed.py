"""A plain Celery application that keeps its results in files: a backend without native chords."""

import json
import os
from pathlib import Path
from typing import Any, NoReturn

import redis
from celery import Celery

URL = os.environ["CELERY_BROKER_URL"]
#: In the directory of the stack, where all of its processes work.
RESULTS = Path(os.environ.get("FILED_RESULTS") or Path.cwd() / "results")
RESULTS.mkdir(exist_ok=True)
app = Celery("filed", broker=URL, backend=f"file://{RESULTS}")
app.conf.result_chord_retry_interval = 0.2
database = redis.Redis.from_url(URL, socket_timeout=70)


def tell(key: str, value: object) -> None:
    database.rpush(f"told:{key}", json.dumps(value))


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def hold(key: str) -> int:
    tell(key, os.getpid())
    database.blpop([f"go:{key}"], timeout=60)
    return 7


@app.task
def fail() -> NoReturn:
    raise ValueError("no pears left")


@app.task
def note(request: Any, exc: Any, traceback: Any, key: str) -> None:
    tell(key, [type(exc).__name__, str(exc)])
