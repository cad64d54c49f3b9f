"""Load the application, and make this process a worker of it: logging, signals, settings, as
Celery's own pool does.
"""

from __future__ import annotations

import os
import sys

from celery import Celery, signals
from celery._state import _set_task_join_will_block
from celery.app.utils import find_app

from gpuqueue.errors import ApplicationNotFound


class Stopped(SystemExit):
    """This process ends without writing anything: it was told to, or cannot, or another attempt
    will.
    """


def find(name: str | None) -> Celery:
    """Import what ``celery -A`` would, with its tasks. Raises :class:`ApplicationNotFound` that
    says why it cannot be.

    A process that is told to stop meanwhile stops: that is no fault of the application.
    """
    fix = (
        "set GPUQUEUE_APP beside the dispatcher to what follows `celery -A`, and start it where"
        " that can be imported"
    )
    if not name:
        raise ApplicationNotFound(f"GPUQUEUE_APP is not set; {fix}")
    sys.path.insert(0, "")  # as celery does: where it was started
    try:
        app: Celery = find_app(name)
        app.finalize()
        app.loader.import_default_modules()
        _ = app.conf.broker_url  # a lazy configuration fails here, not in the middle of the job
    except (Exception, SystemExit) as exc:
        if (stopped := _stopped(exc)) is not None:
            raise stopped from None
        raise ApplicationNotFound(
            f"GPUQUEUE_APP={name!r} cannot be imported: {type(exc).__name__}: {exc}; {fix}"
        ) from exc
    return app


def _stopped(exc: BaseException | None) -> Stopped | None:
    """Find the stop that an error is, or was made of: libraries wrap what is raised while they are
    imported.
    """
    while exc is not None and not isinstance(exc, Stopped):
        exc = exc.__cause__ or exc.__context__
    return exc


def load(name: str | None, worker: str, loglevel: str = "INFO") -> Celery:
    """Import the application and become a worker of it. Raises :class:`ApplicationNotFound`."""
    app = find(name)
    become_worker(app, worker, loglevel)
    # A result is worth waiting for when the backend restarts; bounded: about 10 minutes.
    app.conf.result_backend_always_retry = True
    app.conf.result_backend_max_retries = 120
    app.conf.result_backend_max_sleep_between_retries_ms = 5_000
    return app


def stand_in(
    broker: str | None, backend: str | None, worker: str, loglevel: str = "INFO"
) -> Celery:
    """Return an application without tasks, to tell what is wrong with the real one."""
    app = Celery("gpuqueue-executor", broker=broker, backend=backend)
    become_worker(app, worker, loglevel)
    return app


def become_worker(app: Celery, worker: str, loglevel: str) -> None:
    """Do what Celery does in a new process of its pool, in its order."""
    _set_task_join_will_block(True)  # result.get() within a task is refused, as in Celery's pool
    app.log.setup(loglevel, hostname=worker)
    app.loader.init_worker()
    app.loader.init_worker_process()
    app.set_current()
    app.set_default()
    signals.worker_process_init.send(sender=None)


def leave() -> None:
    """Let the application close what it opened for this process."""
    signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
