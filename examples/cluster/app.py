"""A plain Celery application for cluster tests: it counts, waits, fails, and exhausts memory."""

import os
import sys
import time
from typing import Any, NoReturn

from celery import Celery, Task

app = Celery("cluster")  # broker and backend: CELERY_BROKER_URL and CELERY_RESULT_BACKEND


@app.task
def add(x: float, y: float) -> float:
    return x + y


@app.task
def hold(seconds: float) -> dict[str, Any]:
    """Return the pod, and the start and end in Unix seconds."""
    begun = time.time()
    print("holding", flush=True)
    time.sleep(seconds)
    return {"pod": os.environ.get("GPUQUEUE_POD"), "begun": begun, "ended": time.time()}


@app.task(bind=True, max_retries=2)
def third_time_lucky(self: Task) -> int:
    retries: int = self.request.retries
    if retries < 2:
        raise self.retry(countdown=0)
    return retries


@app.task
def crash(code: int) -> NoReturn:
    print("about to crash", file=sys.stderr, flush=True)
    os._exit(code)


@app.task
def eat_memory(most: int = 4096) -> str:
    """Allocate 160 MB of memory a second until the process is killed, or up to ``most`` MiB."""
    eaten: list[bytearray] = []
    print("eating", flush=True)
    while len(eaten) * 8 < most:
        eaten.append(bytearray(8 << 20))
        time.sleep(0.05)
    return f"allocated {most} MiB without being killed"


@app.task
def note(*_: object, key: str) -> None:
    """An errback: leave a mark that the caller can read."""
    app.backend.client.rpush(key, "called")
    app.backend.client.expire(key, 600)
