"""Changes to a Celery task object for one run in this process."""

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


#: What :func:`changed` sets on a task.
_CHANGED = ("run", "before_start", "track_started")


@contextmanager
def changed(task: Any, run: Callable[..., Any], before_start: Callable[..., Any]) -> Iterator[None]:
    """Replace the code and the first hook of a task instance meanwhile, and have its start stored.
    What the code itself keeps on the task stays.
    """
    kind, own = type(task), {name: vars(task)[name] for name in _CHANGED if name in vars(task)}
    with_run(task, run)
    task.before_start, task.track_started = before_start, True
    try:
        yield
    finally:
        task.__class__ = kind
        for name in _CHANGED:
            vars(task).pop(name, None)
        vars(task).update(own)


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
