"""Tasks whose results or errors Celery cannot store, and hooks that fail."""

import os
import resource
from datetime import date
from typing import Any, NoReturn

from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from kombu.exceptions import OperationalError

app = Celery("odd_ends", broker=os.environ["CELERY_BROKER_URL"])
app.conf.result_backend = os.environ["CELERY_BROKER_URL"]


class Thing:
    pass


class Unpicklable(Exception):
    def __init__(self, first: object, second: object) -> None:
        super().__init__(lambda: first)


class Panic(BaseException):
    """As of a library in Rust: no ``except Exception`` catches it."""


class Mute(int):
    """Celery can store it, and cannot show it."""

    def __repr__(self) -> NoReturn:
        raise RuntimeError("no text")

    __str__ = __repr__


def circular() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


VALUES: dict[str, Any] = {
    "object": Thing,
    "circular": circular,
    "deep": deep,
    "function": lambda: circular,
    "keys": lambda: {(1, 2): 3},
    "inner": lambda: {"rows": [Thing()]},
    "surrogate": lambda: "\ud800",
    "nan": lambda: float("nan"),
    "date": lambda: date(2026, 1, 1),
    "bytes": lambda: b"\x80",
    "none": lambda: None,
    "mute": lambda: Mute(7),
    "mute inside": lambda: [Mute(7)],
}


@app.task
def gives(name: str) -> Any:
    return VALUES[name]()


@app.task
def prints() -> int:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    print("a name that is not UTF-8: \udcff", flush=True)
    return 1


@app.task
def lowers(name: str, hard: bool) -> str:
    limit, result = getattr(resource, name), "x" * 10**7
    resource.setrlimit(limit, (0, 0 if hard else resource.getrlimit(limit)[1]))
    app.backend.client.connection_pool.disconnect()
    return result


class Hooked(Task):
    def on_success(self, *_: Any) -> NoReturn:
        raise ValueError("a hook that fails")

    after_return = on_success


@app.task(base=Hooked)
def hooked() -> int:
    return 1


class Refusing(Task):
    """Its backend does not take its results."""

    @property
    def backend(self) -> Any:
        found = self.app.backend
        plain = found.mark_as_done

        def mark_as_done(*args: Any, **kwargs: Any) -> NoReturn:
            found.mark_as_done = plain
            raise OperationalError("value too large")

        found.mark_as_done = mark_as_done
        return found


@app.task(base=Refusing)
def refused() -> int:
    return 1


@app.task
def raises(name: str) -> NoReturn:
    if name == "unpicklable":
        raise Unpicklable(1, 2)
    if name == "unencodable":
        raise ValueError(Thing(), {1, 2})
    if name == "panic":
        raise Panic("index out of bounds")
    if name == "ignore":
        raise Ignore()
    raise Reject("no")


class Rejecting(Task):
    """Its first hook rejects each message that is delivered for the first time."""

    requeue = False

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        if not self.request.delivery_info["redelivered"]:
            raise Reject("not yet", requeue=self.requeue)


@app.task(base=Rejecting)
def never_begins() -> int:
    return 1


@app.task(base=Rejecting, requeue=True, acks_late=True)
def begins_later() -> int:
    return 1


@app.task(bind=True, acks_late=True)
def again(self: Task) -> int:
    if not self.request.delivery_info["redelivered"]:
        raise Reject("later", requeue=True)
    return 1


@app.task
def again_too_late() -> NoReturn:
    raise Reject("later", requeue=True)


@app.task(bind=True)
def unsendable(self: Task) -> NoReturn:
    raise self.retry(args=(Thing(),))


@app.task(autoretry_for=(ValueError,), retry_kwargs={"args": (Thing(),)})
def unsendable_by_itself() -> NoReturn:
    raise ValueError("again")


@app.task(bind=True)
def custom(self: Task) -> NoReturn:
    self.update_state(state="PROGRESS", meta={"done": 1})
    raise Ignore()
