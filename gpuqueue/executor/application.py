"""Load the application, and make this process a worker of it: logging, signals and settings, as in
Celery's worker pool.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celery import Celery, signals
from celery._state import _set_task_join_will_block
from celery.app import trace
from celery.app.utils import find_app
from celery.worker.request import Request

from gpuqueue.errors import ApplicationNotFound
from gpuqueue.executor import redis_of, streams
from gpuqueue.executor.leaving import copies_end
from gpuqueue.executor.waiting import wait_for_redis
from gpuqueue.imports import uncollected

logger = logging.getLogger("gpuqueue.start")


class Stopped(SystemExit):
    """This process ends without a result: it was asked to stop, cannot write one, or leaves it to
    another attempt.
    """


#: What this process, or the runner that it was forked from, has imported: name → application.
_imported: dict[str, Celery] = {}


def find(name: str | None) -> Celery:
    """Import the application as ``celery -A`` does, with its tasks, unless :func:`keep` was called.
    Raises :class:`ApplicationNotFound` with the cause.

    A stop signal during the import stops the process: the application is not at fault.
    """
    fix = (
        "set GPUQUEUE_APP of the dispatcher to the argument of `celery -A`, and start the"
        " dispatcher where that can be imported"
    )
    if not name:
        raise ApplicationNotFound(f"GPUQUEUE_APP is not set; {fix}")
    if (known := kept(name)) is not None:
        return known
    sys.path.insert(0, "")  # like celery: the working directory
    environ = dict(os.environ)  # the application may clear it
    try:
        with copies_end(), uncollected():
            app: Celery = find_app(name)
            app.finalize()
            app.loader.import_default_modules()
        streams.fill()
        redis_of.name_backend(app, environ)
        _ = app.conf.broker_url  # a lazy configuration fails here, not in the middle of the job
    except (Exception, SystemExit) as exc:
        if (stopped := _stopped(exc)) is not None:
            raise stopped from None
        raise ApplicationNotFound(
            f"GPUQUEUE_APP={name!r} cannot be imported: {type(exc).__name__}: {exc}; {fix}"
        ) from exc
    return app


def keep(name: str, app: Celery) -> None:
    """Have the processes that are forked from this one find an application imported."""
    _imported[name] = app


def kept(name: str | None) -> Celery | None:
    """Return the application that :func:`keep` was called for."""
    return _imported.get(name or "")


def _stopped(exc: BaseException | None) -> Stopped | None:
    """Return the stop in an error's chain of causes: libraries wrap exceptions that their import
    raises.
    """
    while exc is not None and not isinstance(exc, Stopped):
        exc = exc.__cause__ or exc.__context__
    return exc


def load(
    name: str | None, worker: str, loglevel: str = "INFO", patience: float | None = None
) -> Celery:
    """Import the application and become a worker of it, which waits for Redis for ``patience``
    seconds: a process of its pool, and the main one, too, unless :func:`keep` was called. Raises
    :class:`ApplicationNotFound`.
    """
    alone = kept(name) is None
    app = find(name)
    with becoming_worker(name):
        if alone:
            become_main(app, worker, loglevel)
        become_worker(app, worker, loglevel)
        wait_for_redis(app, patience)
        if alone:
            be_ready(app, worker)
    return app


@contextmanager
def becoming_worker(name: str | None) -> Iterator[None]:
    """Raise :class:`ApplicationNotFound` for an error of an application that is imported: a setting
    that only a worker reads, a missing client library, a handler of a signal.
    """
    try:
        yield
    except Exception as exc:
        if (stopped := _stopped(exc)) is not None:
            raise stopped from None
        raise ApplicationNotFound(
            f"GPUQUEUE_APP={name!r} cannot become a worker: {type(exc).__name__}: {exc}; correct"
            " its settings"
        ) from exc


def stand_in(settings: Mapping[str, Any], worker: str, loglevel: str = "INFO") -> Celery:
    """Return an application without tasks, to report an error of the real one."""
    app = Celery("gpuqueue-executor")
    app.conf.update(settings)
    become_worker(app, worker, loglevel)
    wait_for_redis(app)
    return app


@dataclass(frozen=True, slots=True)
class MainProcess:
    """The worker, and its consumer, for the handlers of Celery's signals: it has no pool, and takes
    no messages.
    """

    app: Celery
    hostname: str
    pool: None = None

    @property
    def controller(self) -> MainProcess:
        """The worker of this consumer."""
        return self


def become_main(app: Celery, hostname: str, loglevel: str) -> None:
    """Take the steps of Celery in the main process of a worker before its pool, in its order."""
    main = MainProcess(app, hostname)
    app.loader.init_worker()
    # One request for a task whose class has a __call__ that calls the one of Task.
    trace.setup_worker_optimizations(app, hostname)
    signals.celeryd_init.send(sender=hostname, instance=main, conf=app.conf, options={})
    signals.worker_init.send(sender=main)
    app.log.setup(loglevel, hostname=hostname)
    trace.setup_worker_optimizations(app, hostname)  # handlers may have changed settings
    signals.celeryd_after_setup.send(sender=hostname, instance=main, conf=app.conf)


def be_ready(app: Celery, hostname: str) -> None:
    """Tell the application that its worker is ready: once, when a process of the pool has begun."""
    signals.worker_ready.send(sender=MainProcess(app, hostname))


def receive(app: Celery, hostname: str, request: Request) -> None:
    """Tell the application that its worker has received a task, as the consumer does."""
    signals.task_received.send(sender=MainProcess(app, hostname), request=request)


def shut_down(app: Celery, hostname: str, stopped_by: str = "") -> None:
    """Tell the application that its worker has ended, in the process that :func:`become_main` was
    called in; ``stopped_by``: the signal that the worker got, if it did.
    """
    try:
        app.loader.shutdown_worker()
    except Exception:  # of a loader of the application
        logger.exception("the loader failed", extra={"action": "hook_failed"})
    if stopped_by:
        signals.worker_shutting_down.send(sender=hostname, sig=stopped_by, how="Warm", exitcode=0)
    signals.worker_shutdown.send(sender=MainProcess(app, hostname))


def become_worker(app: Celery, worker: str, loglevel: str) -> None:
    """Take the steps of Celery in a new pool process, in its order."""
    _set_task_join_will_block(True)  # result.get() in a task is an error, as in Celery's pool
    app.log.setup(loglevel, hostname=worker)
    app.loader.init_worker()
    app.loader.init_worker_process()
    app.set_current()
    app.set_default()
    signals.worker_process_init.send(sender=worker)


def leave() -> None:
    """Let the application close its resources of this process."""
    signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
