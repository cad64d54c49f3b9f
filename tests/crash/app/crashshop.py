"""A plain Celery application. Each task leaves a line in a file, so that tests see how often its code really ran."""

import os
import time
from pathlib import Path

from celery import Celery

app = Celery("crashshop")
app.conf.task_routes = {"crashshop.*": {"queue": "gpu.t4.shared"}}
app.conf.task_ignore_result = False


def note(word):
    with Path(os.environ["CRASHSHOP_NOTES"]).open("a") as notes:
        notes.write(f"{word}\n")


@app.task
def work(number):
    note(f"ran {number}")
    return number * 2


@app.task
def hold(gate):
    """Runs until the file ``gate`` exists."""
    note("holding")
    deadline = time.monotonic() + 60
    while not Path(gate).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return "held"


@app.task
def fail():
    note("failed")
    raise ValueError("as asked")


@app.task
def errback(request, exc, traceback):
    note(f"errback {type(exc).__name__}")
