"""A plain Celery application. It has never heard of gpuqueue: it only routes some of its tasks to a
queue ``gpu.t4.shared``.

Tasks tell what they see by a list in Redis (``tell``), and wait for the test there (``hold``).
"""

import json
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import redis
from celery import Celery, Task, chain, chord
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from stock import OutOfStock

URL = os.environ["CELERY_BROKER_URL"]
app = Celery("shop", broker=URL, backend=URL)
app.conf.task_routes = {"shop.gpu_*": {"queue": "gpu.t4.shared"}}
app.conf.result_chord_join_timeout = 20
database = redis.Redis.from_url(URL, socket_timeout=70)
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def tell(key: str, value: object) -> None:
    database.rpush(f"told:{key}", json.dumps(value))


def wait_for_test(key: str) -> None:
    database.blpop([f"go:{key}"], timeout=60)


class Recorded(Task):
    """Tells every hook that Celery calls."""

    def __call__(self, key: str, *args: Any, **kwargs: Any) -> Any:
        tell(key, "__call__")
        return super().__call__(key, *args, **kwargs)

    def before_start(self, task_id: str, args: Args, kwargs: Kwargs) -> None:
        tell(args[0], "before_start")

    def on_success(self, retval: object, task_id: str, args: Args, kwargs: Kwargs) -> None:
        tell(args[0], "on_success")

    def on_failure(
        self, exc: Exception, task_id: str, args: Args, kwargs: Kwargs, einfo: object
    ) -> None:
        tell(args[0], f"on_failure {type(exc).__name__}")

    def on_retry(
        self, exc: Exception, task_id: str, args: Args, kwargs: Kwargs, einfo: object
    ) -> None:
        tell(args[0], "on_retry")

    def after_return(
        self, status: str, retval: object, task_id: str, args: Args, kwargs: Kwargs, einfo: object
    ) -> None:
        tell(args[0], f"after_return {status}")


class BadStart(Task):
    def before_start(self, task_id: str, args: Args, kwargs: Kwargs) -> NoReturn:
        raise OutOfStock("shelf", 1)


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def echo(value: Any) -> Any:
    return value


@app.task
def gpu_double(x: int) -> int:
    return 2 * x


@app.task(ignore_result=True)
def quiet(key: str) -> str:
    tell(key, "done")
    return "an unread result"


@app.task
def tell_of(key: str, value: Any) -> Any:
    tell(key, value)
    return value


@app.task
def fail(how: str = "ValueError") -> NoReturn:
    raise OutOfStock("pears", 3) if how == "OutOfStock" else ValueError(f"no {how}")


@app.task(bind=True)
def hold(self: Task, key: str) -> str:
    tell(key, {"pid": os.getpid(), "id": self.request.id})
    wait_for_test(key)
    return key


@app.task
def say(key: str) -> str:
    """Prints before and after its pause."""
    print("says", key, flush=True)
    tell(key, "said")
    wait_for_test(key)
    print("has said", key, flush=True)
    return key


@app.task(bind=True)
def stubborn(self: Task, key: str) -> NoReturn:
    """Takes its time to end when told to."""

    def on_term(*_: object) -> NoReturn:
        tell(key, "terminating")
        wait_for_test(key)
        os._exit(0)

    signal.signal(signal.SIGTERM, on_term)
    tell(key, {"pid": os.getpid()})
    while True:
        signal.pause()


@app.task(bind=True)
def try_until(self: Task, count: int, key: str | None = None) -> int:
    if key:
        tell(
            key,
            {
                "retries": self.request.retries,
                "gpu": self.request.get("gpu"),
                "stamps": self.request.stamps,
            },
        )
    if self.request.retries < count:
        raise self.retry(countdown=0, max_retries=10)
    return int(self.request.retries)


@app.task(bind=True)
def again_later(self: Task, countdown: float) -> str:
    if not self.request.retries:
        raise self.retry(countdown=countdown)
    return "again"


@app.task(bind=True)
def again_on(self: Task, queue: str) -> NoReturn:
    raise self.retry(queue=queue, countdown=0)


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def give_up(self: Task, because: str | None = None) -> NoReturn:
    raise self.retry(exc=OutOfStock(because, 2) if because else None)


@app.task(
    bind=True,
    autoretry_for=(OutOfStock,),
    retry_backoff=False,
    default_retry_delay=0,
    max_retries=2,
)
def sell_out(self: Task, key: str) -> NoReturn:
    tell(key, self.request.retries)
    raise OutOfStock("plums", self.request.retries)


@app.task(bind=True)
def pack(self: Task, key: str) -> str:
    self.update_state(state="PACKING", meta={"boxes": 2})
    tell(key, "packing")
    wait_for_test(key)
    return "packed"


@app.task(bind=True)
def describe(self: Task) -> dict[str, Any]:
    request = self.request
    names = (
        "id task retries hostname delivery_info shadow timelimit root_id parent_id correlation_id"
        " reply_to expires is_eager"
    )
    seen = {name: request.get(name) for name in names.split()}
    more = {
        "stamps": request.stamps,
        "gpu": request.get("gpu"),
        "called_directly": request.called_directly,
        "pid": os.getpid(),
    }
    return (
        seen
        | more
        | {
            "name": self.name,
            "custom": request.get("custom"),
            "args": request.args,
            "kwargs": request.kwargs,
        }
    )


@app.task(bind=True)
def become(self: Task, what: str, x: int) -> NoReturn:
    if what == "chain":
        raise self.replace(
            chain(add.s(x, 1), add.s(10).set(queue=self.request.delivery_info["routing_key"]))
        )
    if what == "chord":
        raise self.replace(chord([add.s(x, 1), add.s(x, 2)], total.s()))
    raise self.replace(echo.s(x).set(queue=what))


@app.task(time_limit=1)
def endless(key: str) -> None:
    tell(key, {"pid": os.getpid()})
    wait_for_test(key)


@app.task(base=Recorded, bind=True)
def recorded(self: Task, key: str, how: str = "well") -> str:
    if how == "hold":
        tell(key, {"pid": os.getpid()})
        wait_for_test(key)
    if how == "retry" and not self.request.retries:
        raise self.retry(countdown=0)
    if how == "fail":
        raise OutOfStock("cherries", 1)
    return how


@app.task(base=BadStart)
def never_begins() -> str:
    return "begun"


@app.task
def tidy_up(key: str, then: str = "return") -> str | None:
    try:
        tell(key, "started")
        wait_for_test(key)
    except SoftTimeLimitExceeded:
        if then == "raise":
            raise
        if then == "tell":
            tell(key, "tidied")
        return "tidied"
    return None


@app.task
def turn_away(how: str) -> NoReturn:
    raise Reject("not today", requeue=False) if how == "reject" else Ignore()


@app.task(bind=True, acks_late=True)
def put_off(self: Task, key: str, always: bool = False) -> str:
    redelivered = self.request.delivery_info["redelivered"]
    tell(key, redelivered)
    if always or not redelivered:
        raise Reject("later", requeue=True)
    return "done"


@app.task
def unserializable() -> object:
    return object()


@app.task
def leave(how: str) -> None:
    if how == "sys.exit":
        sys.exit(3)
    if how == "os._exit":
        os._exit(4)
    if how == "status 0":
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def leave_first(task: Task, key: str, how: str, times: int) -> str:
    """Leave without a word, so many times; tell what is known of earlier tries."""
    seen = [task.request.delivery_info["redelivered"], task.request.retries]
    tell(key, seen)
    if database.incr(f"left:{key}") <= times:
        leave(how)
    return "stayed"


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def comes_back(self: Task, key: str, how: str = "SIGKILL", times: int = 1) -> str:
    return leave_first(self, key, how, times)


class ToldOfRetry(Task):
    def on_retry(
        self, exc: Exception, task_id: str, args: Args, kwargs: Kwargs, einfo: object
    ) -> None:
        tell(f"{args[0]}-hook", [type(exc).__name__, self.request.retries])


@app.task(
    bind=True, base=ToldOfRetry, retry_on_worker_lost=True, max_retries=2, default_retry_delay=0
)
def is_retried(self: Task, key: str, how: str = "SIGKILL", times: int = 1) -> str:
    return leave_first(self, key, how, times)


@app.task
def old_errback(task_id: str, key: str) -> None:
    tell(key, ["old", task_id])


@app.task
def lone_errback(task_id: str) -> None:
    tell(task_id, ["old", task_id])


@app.task
def new_errback(request: Context, exc: Exception, traceback: object, key: str) -> None:
    tell(key, ["new", request.id, type(exc).__name__, str(exc), bool(traceback)])


@app.task
def pass_on(value: Any, key: str) -> Any:
    tell(key, value)
    return value


@app.task(base=Recorded, bind=True)
def train(self: Task, key: str, size: int, then: str = "return") -> str:
    """Takes memory of the GPU, holds, and ends well, or with what torch raises where there is no
    more.
    """
    import torch

    torch.cuda.take(size)
    tell(key, {"pid": os.getpid()})
    wait_for_test(key)
    if then == "run out":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return then


@app.task
def fill(key: str, *enough: str) -> str:
    """Needs the GPU memory of certain places: elsewhere, torch runs out of it."""
    import torch

    here = f"{os.environ['GPUQUEUE_GPU_CLASS']} {os.environ['GPUQUEUE_ISOLATION']}"
    tell(key, here)
    if here not in enough:
        wait_for_test(key)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    return here


@app.task(soft_time_limit=1)
def shrink(key: str) -> None:
    """Runs out of memory, and out of time while it makes do with less."""
    import torch

    try:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    except RuntimeError:
        wait_for_test(key)


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def wear_out(
    self: Task,
    key: str,
    attempts: int,
    text: str = "CUDA error: uncorrectable ECC error encountered",
    retry: bool = False,
) -> int:
    """Has a GPU that fails in as many attempts. A thread is left behind that would keep the process
    from ending.
    """
    attempt = int(os.environ["GPUQUEUE_ATTEMPT"])
    tell(key, [attempt, self.request.retries])
    if attempt <= attempts and not self.request.retries:
        threading.Thread(target=wait_for_test, args=(f"{key}-left",)).start()
        exc = RuntimeError(text)
        raise self.retry(exc=exc) if retry else exc
    return attempt


@app.task
def on_gpu(broken: str) -> str | None:
    """Answer the GPU that was dealt; one of them is broken."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given == broken:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    return given


@app.task
def hold_gpu(key: str) -> str | None:
    tell(key, os.environ.get("CUDA_VISIBLE_DEVICES"))
    wait_for_test(key)
    return os.environ.get("CUDA_VISIBLE_DEVICES")
