"""A plain Celery application. Each task leaves a line in a file, so that tests see how often its
code really ran.
"""

import os
import time
from pathlib import Path
from typing import NoReturn

from celery import Celery, Task
from celery.app.task import Context
from celery.exceptions import Reject

import gpuqueue

app = Celery("crashshop")
app.conf.task_routes = {"crashshop.*": {"queue": "gpu.t4.shared"}}
app.conf.task_ignore_result = False


def note(word: str) -> None:
    with Path(os.environ["CRASHSHOP_NOTES"]).open("a") as notes:
        notes.write(f"{word}\n")


@app.task
def work(number: int) -> int:
    note(f"ran {number}")
    return number * 2


@app.task
def hold(gate: str) -> str:
    """Runs until the file ``gate`` exists."""
    note("holding")
    deadline = time.monotonic() + 60
    while not Path(gate).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return "held"


def wait_for(gate: str) -> None:
    deadline = time.monotonic() + 60
    while not Path(gate).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    note(f"let go by {Path(gate).name}")


@app.task
def finish_at(gate: str) -> str:
    """Ends when the file ``gate`` exists."""
    note("working")
    wait_for(gate)
    return "finished"


@app.task(bind=True)
def retry_at(self: Task, gate: str) -> str:
    """Asks for a second try when the file ``gate`` exists."""
    note(f"try {self.request.retries}")
    if not self.request.retries:
        wait_for(gate)
        raise self.retry(countdown=0)
    return "retried"


@app.task
def fail_at(gate: str) -> None:
    """Fails when the file ``gate`` exists."""
    note("failing")
    wait_for(gate)
    raise ValueError("as asked")


@app.task(acks_late=True)
def put_off() -> NoReturn:
    note("put off")
    raise Reject("later", requeue=True)


@app.task
def fail() -> NoReturn:
    note("failed")
    raise ValueError("as asked")


@app.task(bind=True)
def again(self: Task, number: int) -> int:
    """Runs twice: its first try asks for a second."""
    note(f"try {self.request.retries} of {number}")
    if not self.request.retries:
        raise self.retry(countdown=0.2)
    return number * 2


@app.task
def code() -> str:
    """Where the executor's gpuqueue lies."""
    return str(Path(gpuqueue.__file__).parent.parent)


@app.task
def errback(request: Context, exc: Exception, traceback: object) -> None:
    note(f"errback {type(exc).__name__}")
