"""Make this process the parent of executors: import the application once, as a worker of Celery
does, and all that its executors would import one by one.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field

from celery import Celery

from gpuqueue.errors import ApplicationNotFound
from gpuqueue.executor import application, leaving, redis_of, waiting
from gpuqueue.executor.sources import Sources
from gpuqueue.glue.profile import profile_of
from gpuqueue.model.executor_env import LOAD_TIMEOUT, START
from gpuqueue.model.profile import Profile
from gpuqueue.runner import safety
from gpuqueue.store import scripts
from gpuqueue.store.attempts import GOING_ON, VERBS

#: What a job would import by itself, at its own cost: the difference of ``sys.modules`` before and
#: after a job.
_LATE = (
    "billiard.util",
    "celery.app.amqp",
    "celery.app.builtins",
    "celery.app.events",
    "celery.app.trace",
    "celery.backends.redis",
    "celery.concurrency.prefork",
    "celery.events.dispatcher",
    "celery.worker.request",
    "celery.worker.strategy",
    "encodings.idna",
    "gpuqueue.executor.main",
    "gpuqueue.nvidia.nvml",
    "hmac",
    "kombu.pools",
    "kombu.transport.redis",
    "multiprocessing.resource_tracker",
    "multiprocessing.util",
    "redis.commands",
    "secrets",
)
#: The worker that an application sees in the main process.
NAME = f"gpuqueue-runner@{socket.gethostname()}"
#: Seconds after which an application that could not be imported is imported again if it is asked
#: for. What is asked for meanwhile meets the same error.
PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Parent:
    """An imported application.

    ``problem`` is why it could not be imported; empty if it was. ``unsafe`` is why its executors
    are not forked. ``profile``: see :mod:`gpuqueue.model.profile`; None: it is not imported here.
    """

    problem: str
    unsafe: str
    sources: Sources
    profile: Profile | None = None
    at: float = field(default_factory=time.monotonic)

    def outdated(self) -> str:
        """Return why the application must be imported again; empty if it need not."""
        if self.problem and time.monotonic() - self.at > PAUSE:
            return "the application could not be imported before"
        changed = self.sources.changed()
        return f"{changed} has changed" if changed else ""


def load(environ: Mapping[str, str], why_spawn: str = "") -> Parent:
    """Import the application. An error is kept for those who ask for an attempt. Where executors
    are spawned, each imports it by itself; ``why_spawn``: why they are, if it is no setting.
    """
    if environ.get(START) == "spawn":
        return Parent("", why_spawn or "GPUQUEUE_START=spawn", Sources(sys.modules))
    import_late()
    own, problem = set(sys.modules), ""
    if within := float(environ.get(LOAD_TIMEOUT, 0)):
        # Its thread ends with the import: it would forbid to fork.
        faulthandler.dump_traceback_later(within, exit=True)
    try:
        become(environ)
    except ApplicationNotFound as exc:
        problem = str(exc)
        traceback.print_exception(exc)
    finally:
        faulthandler.cancel_dump_traceback_later()
    sources, app = Sources(own), application.kept(environ.get("GPUQUEUE_APP"))
    profile = profile_of(app, redis_of.told_backend(environ)) if app else None
    return Parent(problem, settle(), sources, profile)


def import_late() -> None:
    """Import what each executor would import by itself, beside the application."""
    for name in _LATE:
        importlib.import_module(name)
    scripts.read(*VERBS, *GOING_ON)


def become(environ: Mapping[str, str]) -> Celery:
    """Import the application, and take the steps of a Celery worker before it forks its pool.
    Returns it. Raises :class:`ApplicationNotFound`.
    """
    name = environ.get("GPUQUEUE_APP")
    app = application.find(name)
    with application.becoming_worker(name):
        _become_parent(app, environ.get("GPUQUEUE_LOG_LEVEL", "INFO"))
        _prepare(app, environ)
    return app


def settle() -> str:
    """Prepare this process for forks. Returns why it must not fork; empty if it may."""
    safety.settle()
    why = safety.unsafe()
    gc.collect()
    gc.freeze()  # a child's collector would write to each page that has an object, and so copy it
    return why


def _prepare(app: Celery, environ: Mapping[str, str]) -> None:
    """Make what each executor would make by itself: an object that only a child makes costs each
    child the same again, and each page of memory that it touches is copied.
    """
    application.keep(environ["GPUQUEUE_APP"], app)
    waiting.prepare(app, redis_of.prepare(environ))


def _become_parent(app: Celery, loglevel: str) -> None:
    """Take these steps, in the order of Celery."""
    application.become_main(app, NAME, loglevel)
    _ = app.backend, app.amqp.queues


def be_ready(name: str | None) -> None:
    """Tell the application, once its first executor is forked, that its worker is ready."""
    if (app := application.kept(name)) is not None:
        application.be_ready(app, NAME)


def shut_down(environ: Mapping[str, str], status: int, stopped_by: str = "") -> None:
    """Tell the application that its worker has ended, by a signal if it was. This process ends with
    a status if that hangs.
    """
    if (app := application.kept(environ.get("GPUQUEUE_APP"))) is not None:
        leaving.end_within(leaving.grace_of(environ), status)
        application.shut_down(app, NAME, stopped_by)
