"""An application that touches nothing of Redis but Celery's: what its tasks tell goes to files. It
may sign its messages.
"""

import json
import os
import time
from pathlib import Path
from typing import Any, NoReturn

from celery import Celery, Task, chord, group
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded
from celery.result import allow_join_result

FOLDER = Path(os.environ["LEDGER_FOLDER"])
#: A folder with key.pem, cert.pem and store/*.pem: then it signs, and takes only what is signed.
KEYS = os.environ.get("LEDGER_KEYS")

app = Celery(
    "ledger",
    broker=os.environ["CELERY_BROKER_URL"],
    backend=os.environ.get("CELERY_RESULT_BACKEND") or os.environ["CELERY_BROKER_URL"],
)
app.conf.task_routes = {"ledger.gpu_*": {"queue": "gpu.t4.shared"}}
app.conf.result_chord_join_timeout = 20
#: What an application behind Sentinels, or with prefixes of keys, has in its configuration.
app.conf.broker_transport_options = json.loads(os.environ.get("LEDGER_BROKER_OPTIONS", "{}"))
app.conf.result_backend_transport_options = json.loads(
    os.environ.get("LEDGER_RESULT_OPTIONS", "{}")
)
if KEYS:
    app.conf.update(
        task_serializer="auth",
        accept_content=["auth"],
        # Results stay JSON: dispatchers, who have no key, write some.
        result_serializer=os.environ.get("LEDGER_RESULTS", "json"),
        result_accept_content=["json"],
        security_key=f"{KEYS}/key.pem",
        security_certificate=f"{KEYS}/cert.pem",
        security_cert_store=f"{KEYS}/store/*.pem",
    )
    app.setup_security()


def tell(key: str, value: object) -> None:
    with (FOLDER / key).open("a") as file:
        file.write(json.dumps(value) + "\n")


def wait_for(key: str) -> None:
    """Wait until a test makes a file."""
    for _ in range(1200):
        if (FOLDER / key).exists():
            return
        time.sleep(0.05)
    raise TimeoutError(key)


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def gpu_double(x: int) -> int:
    return 2 * x


@app.task
def gpu_add(x: int, y: int) -> int:
    return x + y


@app.task
def gpu_total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def gpu_lists(found: list[Any]) -> list[Any]:
    """Of a group in a chord's header its results stay together."""
    return found


@app.task
def gpu_fail(why: str) -> NoReturn:
    raise ValueError(why)


@app.task(bind=True)
def gpu_retry(self: Task) -> int:
    if not self.request.retries:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(bind=True)
def gpu_progress(self: Task, key: str) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1})
    tell(key, "here")
    wait_for(f"{key}.go")
    return "done"


@app.task(ignore_result=True)
def gpu_quiet(key: str) -> None:
    tell(key, "quiet")


@app.task
def gpu_note(key: str) -> None:
    tell(key, "ran")


@app.task(bind=True)
def gpu_count(self: Task, key: str, seconds: float) -> int:
    tell(key, [self.request.id, time.time()])
    time.sleep(seconds)
    return 1


@app.task(time_limit=60, soft_time_limit=1)
def gpu_slow() -> str | None:
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        return "stopped"
    return None


@app.task
def gpu_join(count: int) -> list[int]:
    """Sends other tasks, and waits for them."""
    with allow_join_result():
        result = group(add.s(each, each) for each in range(count)).apply_async()
        result.save()
        found: list[int] = result.get(timeout=30)
    return found


@app.task(bind=True)
def gpu_more(self: Task, x: int) -> int:
    """Adds to the chord that it is part of."""
    self.add_to_chord(add.s(x, x))
    return x


@app.task(bind=True)
def gpu_become(self: Task, x: int) -> NoReturn:
    raise self.replace(chord([add.s(x, 1), gpu_double.s(x)], total.s()))


@app.task
def gpu_die() -> NoReturn:
    os._exit(9)


@app.task
def old_errback(task_id: str, key: str) -> None:
    tell(key, ["old", task_id])


@app.task
def new_errback(request: Context, exc: Exception, traceback: object, key: str) -> None:
    tell(key, ["new", request.id, type(exc).__name__])
