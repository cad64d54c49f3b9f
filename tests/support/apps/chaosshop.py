"""A plain Celery application whose tasks note beside Celery what they really did: one JSON object a
line in a file, with the time of the machine's monotonic clock.
"""

import json
import os
import time
from typing import NoReturn

from celery import Celery, Task
from celery.app.task import Context

app = Celery("chaosshop")
app.conf.task_routes = {"chaosshop.*": {"queue": "gpu.t4.shared"}}


def note(event: str, task_id: str, retries: int) -> None:
    line = {
        "event": event,
        "id": task_id,
        "retries": retries,
        "attempt": os.environ.get("GPUQUEUE_ATTEMPT", ""),
        "isolation": os.environ.get("GPUQUEUE_ISOLATION", ""),
        "at": time.monotonic(),
        "pid": os.getpid(),
    }
    effects = os.open(os.environ["CRASH_NOTES"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(effects, f"{json.dumps(line)}\n".encode())
    finally:
        os.close(effects)


def run(request: Context, seconds: float) -> None:
    note("start", request.id, request.retries)
    time.sleep(seconds)
    note("end", request.id, request.retries)


@app.task(bind=True)
def work(self: Task, number: int, seconds: float) -> int:
    run(self.request, seconds)
    return number * 2


@app.task(bind=True)
def follow(self: Task, before: int, seconds: float) -> int:
    """Continues a chain."""
    run(self.request, seconds)
    return before + 1


@app.task(bind=True)
def total(self: Task, parts: list[int], seconds: float) -> int:
    """The body of a chord."""
    run(self.request, seconds)
    return sum(parts)


@app.task(bind=True)
def fail(self: Task, number: int, seconds: float) -> NoReturn:
    run(self.request, seconds)
    raise ValueError(f"as asked: {number}")


@app.task(bind=True)
def again(self: Task, number: int, seconds: float) -> int:
    """Runs twice: its first try asks for a second."""
    run(self.request, seconds)
    if not self.request.retries:
        raise self.retry(countdown=0.1)
    return number * 2


@app.task
def errback(request: Context, exc: Exception, traceback: object) -> None:
    note("errback", request.id, request.retries or 0)
