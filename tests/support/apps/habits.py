"""An application with the habits of many: hooks, an SDK, a base and a request class."""

import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import redis
from celery import Celery, Task, signals
from celery.app import trace
from celery.contrib.abortable import AbortableTask
from celery.worker.request import Request

URL = os.environ["CELERY_BROKER_URL"]
app = Celery("habits", broker=URL, backend=URL)
if limit := os.environ.get("HABITS_TIME_LIMIT"):
    app.conf.task_time_limit = float(limit)


if steps := os.environ.get("HABITS_STEPS"):
    app.conf.broker_transport_options = {"priority_steps": json.loads(steps), "sep": ":"}
if database := os.environ.get("HABITS_DATABASE"):
    app.conf.result_backend = f"{URL.rpartition('/')[0]}/{database}"
if names := os.environ.get("HABITS_NAMES"):
    app.conf.update(json.loads(names))
if serializer := os.environ.get("HABITS_SERIALIZER"):
    app.conf.result_serializer = serializer
    app.conf.accept_content = ["json", serializer]


def tell(key: str, text: str) -> None:
    with redis.Redis.from_url(URL) as client:
        client.rpush(key, text)


# -- hooks -----------------------------------------------------------------------------------------


def note(name: str) -> Callable[..., None]:
    def noted(sender: object = None, **_: object) -> None:
        worker = getattr(sender, "hostname", sender)
        tell("hooks", f"{name} {os.getpid()} {worker}")

    return noted


for each in ("celeryd_init", "worker_init", "worker_process_init", "worker_ready"):
    getattr(signals, each).connect(note(each), weak=False)


@app.task
def pids() -> list[int]:
    return [os.getpid(), os.getppid()]


# -- an SDK ----------------------------------------------------------------------------------------

TRACED: list[str] = []
plain_tracer = trace.build_tracer


def build_tracer(name: str, task: Any, *args: Any, **kwargs: Any) -> Callable[..., Any]:
    tracer = plain_tracer(name, task, *args, **kwargs)

    def traced(*more: Any, **options: Any) -> Any:
        TRACED.append(name)
        return tracer(*more, **options)

    return traced


trace.build_tracer = build_tracer


@app.task
def traced() -> list[str]:
    return TRACED


# -- a base class ----------------------------------------------------------------------------------


class Marking(Task):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.request.mark = "set before"
        return super().__call__(*args, **kwargs)


@app.task(bind=True, base=Marking)
def marked(self: Task) -> str:
    return str(getattr(self.request, "mark", "lost"))


@app.task(bind=True)
def properties(self: Task) -> dict[str, Any]:
    return {
        name: value
        for name, value in self.request.properties.items()
        if name not in ("delivery_info", "body_encoding")
    }


@app.task(bind=True)
def signed(self: Task, one: int, other: int = 2) -> str:
    return str(inspect.signature(self.run))


# -- a request class -------------------------------------------------------------------------------


class Telling(Request):
    def on_accepted(self, pid: int, time_accepted: float) -> None:
        tell(self.id, "accepted")
        super().on_accepted(pid, time_accepted)

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> None:
        tell(self.id, "success")
        super().on_success(failed__retval__runtime, **kwargs)

    def on_retry(self, exc_info: Any) -> None:
        tell(self.id, "retry")
        super().on_retry(exc_info)

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        tell(self.id, f"failure {type(exc_info.exception).__name__}")
        super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        tell(self.id, f"{'soft' if soft else 'hard'} timeout {timeout:g}")
        super().on_timeout(soft, timeout)


class Requested(Task):
    Request = Telling


@app.task(bind=True, base=Requested, max_retries=1)
def requested(self: Task, does: str) -> str:
    if does == "retry":
        raise self.retry(countdown=0)
    if does == "fail":
        raise ValueError("wrong")
    if does == "sleep":
        time.sleep(60)
    return does


# -- signals, limits, arguments --------------------------------------------------------------------


@app.task
def alarmed(seconds: float) -> str:
    class Alarm(Exception):
        pass

    def ring(*_: object) -> NoReturn:
        raise Alarm

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        time.sleep(60)
    except Alarm:
        return "rung"
    return "slept"


@app.task
def takes_two(one: int, other: int) -> int:
    return one + other


@app.task(rate_limit="1/h")
def limited() -> str:
    return "ran"


@app.task(ignore_result=True)
def quiet(key: str) -> None:
    tell(key, "ran")


@app.task(bind=True, base=AbortableTask)
def aborted(self: Any) -> bool:
    return bool(self.is_aborted())


@app.task
def parent() -> str:
    quiet.delay("child")
    return str(quiet.apply_async(("child",)).id)


# -- states ----------------------------------------------------------------------------------------


def own_state(self: Task) -> str:
    return str(app.AsyncResult(self.request.id).state)


untracked = app.task(own_state, bind=True, name="habits.untracked")
tracked = app.task(own_state, bind=True, name="habits.tracked", track_started=True)


@app.task
def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# -- processes -------------------------------------------------------------------------------------


@app.task
def forked(how: str) -> int:
    """Return the exit status of a copy of this process that comes out of the task."""
    if not (pid := os.fork()):
        if how == "raises":
            raise ValueError(how)
        return -1 if how == "returns" else sys.exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
