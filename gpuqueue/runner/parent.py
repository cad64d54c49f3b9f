"""Make this process the parent of executors: import the application once, as a worker of Celery
does, and all that its executors would import one by one.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field

from celery import Celery, signals

from gpuqueue.errors import ApplicationNotFound
from gpuqueue.executor import application, redis_of, waiting
from gpuqueue.executor.sources import Sources
from gpuqueue.model.executor_env import LOAD_TIMEOUT, START
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
    "hmac",
    "kombu.pools",
    "kombu.transport.redis",
    "multiprocessing.resource_tracker",
    "multiprocessing.util",
    "redis.commands",
    "secrets",
)
#: Seconds after which an application that could not be imported is imported again if it is asked
#: for. What is asked for meanwhile meets the same error.
PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Parent:
    """An imported application.

    ``problem`` is why it could not be imported; empty if it was. ``unsafe`` is why its executors
    are not forked.
    """

    problem: str
    unsafe: str
    sources: Sources
    at: float = field(default_factory=time.monotonic)

    def outdated(self) -> str:
        """Return why the application must be imported again; empty if it need not."""
        if self.problem and time.monotonic() - self.at > PAUSE:
            return "the application could not be imported before"
        changed = self.sources.changed()
        return f"{changed} has changed" if changed else ""


def load(environ: Mapping[str, str]) -> Parent:
    """Import the application. An error is kept for those who ask for an attempt. Where executors
    are spawned, each imports it by itself.
    """
    if environ.get(START) == "spawn":
        return Parent("", "GPUQUEUE_START=spawn", Sources(sys.modules))
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
    sources = Sources(own)
    return Parent(problem, settle(), sources)


def import_late() -> None:
    """Import what each executor would import by itself, beside the application."""
    for name in _LATE:
        importlib.import_module(name)
    scripts.read(*VERBS, *GOING_ON)


def become(environ: Mapping[str, str]) -> None:
    """Import the application, and take the steps of a Celery worker before it forks its pool.
    Raises :class:`ApplicationNotFound`.
    """
    name = environ.get("GPUQUEUE_APP")
    app = application.find(name)
    with application.becoming_worker(name):
        _become_parent(app, environ.get("GPUQUEUE_LOG_LEVEL", "INFO"))
        _prepare(app, environ)


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
    signals.celeryd_init.send(sender="gpuqueue", instance=None, conf=app.conf, options={})
    signals.worker_init.send(sender=None)
    app.log.setup(loglevel, hostname="gpuqueue-runner")
    app.loader.init_worker()
    _ = app.backend, app.amqp.queues, [app.tasks[name].__trace__ for name in app.tasks]
