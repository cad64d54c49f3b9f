"""A Celery application that does not end, load or finish as it should.

Redis says what goes wrong with its import: see ``_import``.
"""

import atexit
import multiprocessing
import os
import signal
import threading
from typing import Any, NoReturn

import redis
from celery import Celery, Task
from celery.app.task import Context

URL = os.environ["CELERY_BROKER_URL"]
app = Celery("troubled", broker=URL, backend=URL)
database = redis.Redis.from_url(URL, socket_timeout=100, decode_responses=True)


def stay() -> None:
    """Wait for longer than any test, or until the test lets go."""
    database.blpop(["go:troubled"], timeout=90)


def _import() -> None:
    trouble = database.get("troubled:import")
    database.rpush("troubled:imports", os.getpid())
    if trouble == "hang":
        stay()
    elif trouble == "raise":
        raise RuntimeError("a broken import")
    elif trouble == "die":
        os.kill(os.getpid(), signal.SIGKILL)


_import()


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def leave(what: str) -> str:
    """Leave something behind that outlives the task."""
    if what == "thread":
        threading.Thread(target=stay, name="left-behind").start()
    elif what == "atexit":
        atexit.register(stay)
    elif what == "stopped":
        atexit.register(os.kill, os.getpid(), signal.SIGSTOP)
    elif what == "child":  # the interpreter joins it at its end
        multiprocessing.get_context("spawn").Process(target=stay).start()
    elif what == "fork" and os.fork() == 0:  # it holds the output of its parent
        stay()
        os._exit(0)
    return what


@app.task
def die() -> NoReturn:
    """End without a result: another process must finish the job."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still here")


@app.task
def hold() -> None:
    database.rpush("troubled:holding", os.getpid())
    stay()


class Raises(Task):
    def on_failure(self, *_: Any) -> NoReturn:
        database.rpush("troubled:hooks", os.getpid())
        raise RuntimeError("a broken hook")


class Hangs(Task):
    def on_failure(self, *_: Any) -> None:
        database.rpush("troubled:hooks", os.getpid())
        stay()


class Dies(Task):
    def on_failure(self, *_: Any) -> None:
        database.rpush("troubled:hooks", os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


app.task(name="troubled.hook_raises", base=Raises)(_die)
app.task(name="troubled.hook_hangs", base=Hangs)(_die)
app.task(name="troubled.hook_dies", base=Dies)(_die)


@app.task
def errback_raises(request: Context, exc: Exception, traceback: object) -> NoReturn:
    database.rpush("troubled:errbacks", os.getpid())
    raise RuntimeError("a broken errback")


@app.task
def errback(request: Context, exc: Exception, traceback: object) -> None:
    database.rpush(f"troubled:errback:{request.id}", type(exc).__name__)


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)
