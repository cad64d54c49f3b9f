"""Changes to a Celery task object for one run in this process."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from celery import Celery, Task
from celery.exceptions import SoftTimeLimitExceeded

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
def changed(
    task: Any, run: Callable[..., Any], before_start: Callable[..., Any], *, tracks: bool
) -> Iterator[None]:
    """Replace the code and the first hook of a task instance meanwhile, and have its start stored
    if ``tracks``. What the code itself keeps on the task stays.
    """
    kind, own = type(task), {name: vars(task)[name] for name in _CHANGED if name in vars(task)}
    with_run(task, run)
    task.before_start = before_start
    if tracks:
        task.track_started = True
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


@contextmanager
def soft_limit(seconds: float | None, met: Callable[[], object]) -> Iterator[None]:
    """Raise SoftTimeLimitExceeded in the task at its soft limit, by the signal that Celery's pool
    uses for it: alarm and timers of the process are the task's. ``met`` is called just before, in
    another thread. Without a limit, a revoke by that signal has the same effect.
    """
    over, ending, main = threading.Event(), threading.Lock(), threading.main_thread()

    def expire(number: int, frame: FrameType | None) -> None:
        if not over.is_set():  # else it came while the task ended
            raise SoftTimeLimitExceeded()  # without arguments, as Celery's pool

    def watch() -> None:
        if not over.wait(seconds) and main.ident is not None:
            met()
            with ending:  # never later: the process may have gone on with another job
                if not over.is_set():
                    signal.pthread_kill(main.ident, signal.SIGUSR1)

    signal.signal(signal.SIGUSR1, expire)
    if seconds:
        _thread.start_new_thread(watch, ())  # as the sampler: it may not wait for its begin
    try:
        yield
    finally:
        with ending:
            over.set()
