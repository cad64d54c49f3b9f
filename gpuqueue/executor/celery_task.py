"""Changes to a Celery task object for its one run in this process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from celery import Celery, Task
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.saferepr import saferepr

from gpuqueue.errors import ArgumentsMismatch
from gpuqueue.glue.stand_in import stand_in
from gpuqueue.model.record import Record


def raiser(app: Celery, record: Record, exc: Exception) -> Any:
    """Return a task with the name of the record's task that raises an exception."""

    def run(*args: Any, **kwargs: Any) -> NoReturn:
        raise exc

    return stand_in(app, record["task"], run)


def with_run(task: Any, run: Callable[..., Any]) -> Any:
    """Replace ``run`` of a task instance; the tracer calls it directly unless the task's class has
    another ``__call__``.
    """
    if has_own_call(task):
        plain = type(
            task.__name__,
            (type(task),),
            {"__call__": lambda self, *args, **kwargs: run(*args, **kwargs)},
        )
        task.__class__ = plain
    else:
        task.run = run
    return task


def has_own_call(task: Any) -> bool:
    """Return whether the class of a task overrides ``__call__``."""
    return type(task).__call__ is not Task.__call__


def check_arguments(task: Any, args: Any, kwargs: Any) -> None:
    """Raise :class:`ArgumentsMismatch` if the arguments do not fit a task that checks them."""
    header = getattr(task, "__header__", None) if getattr(task, "typing", False) else None
    if header is None:
        return
    try:
        header(*args, **kwargs)
    except TypeError as exc:
        shown = f"args={saferepr(args)}, kwargs={saferepr(kwargs)}"
        raise ArgumentsMismatch(
            f"{shown} do not fit the signature of task {task.name!r}: {exc}; correct the call"
        ) from exc


@contextmanager
def soft_limit(seconds: float | None) -> Iterator[None]:
    """Raise SoftTimeLimitExceeded in the task at its soft limit, by a signal like Celery's pool."""

    def expire(number: int, frame: FrameType | None) -> NoReturn:
        raise SoftTimeLimitExceeded(seconds)

    if not seconds:
        yield
        return
    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
