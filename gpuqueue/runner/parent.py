"""Make this process the parent of executors: import the application once, as a worker of Celery
does, and all that its executors would import one by one.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from celery import Celery, signals

from gpuqueue.errors import ApplicationNotFound
from gpuqueue.executor import application
from gpuqueue.runner import safety
from gpuqueue.runner.sources import Sources
from gpuqueue.store.scripts import source

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
    "hmac",
    "kombu.pools",
    "kombu.transport.redis",
    "multiprocessing.resource_tracker",
    "multiprocessing.util",
    "redis.commands",
    "secrets",
)
#: The scripts of an executor.
_VERBS = ("claim", "limit", "sampled", "report", "reported")


@dataclass(frozen=True, slots=True)
class Parent:
    """An imported application.

    ``problem`` is why it could not be imported; empty if it was. ``unsafe`` is why its executors
    are not forked.
    """

    problem: str
    unsafe: str
    sources: Sources

    def changed(self) -> str:
        """Return a file of the application that has changed since; empty if none has."""
        return self.sources.changed()


def load(environ: Mapping[str, str]) -> Parent:
    """Import the application. An error is kept for those who ask for an attempt."""
    before, problem = set(sys.modules), ""
    for name in _LATE:
        importlib.import_module(name)
    for verb in _VERBS:
        source(verb)
    own = set(sys.modules)
    try:
        app = application.find(environ.get("GPUQUEUE_APP"))
        _become_parent(app, environ.get("GPUQUEUE_LOG_LEVEL", "INFO"))
    except ApplicationNotFound as exc:
        problem = str(exc)
    sources = Sources(own | before)
    safety.settle()
    asked = environ.get("GPUQUEUE_START") == "spawn"
    why = "GPUQUEUE_START=spawn" if asked else safety.unsafe()
    gc.collect()
    gc.freeze()  # a child's collector would write to each page that has an object, and so copy it
    return Parent(problem, why, sources)


def _become_parent(app: Celery, loglevel: str) -> None:
    """Take the steps of a Celery worker before it forks its pool, in its order."""
    signals.celeryd_init.send(sender="gpuqueue", instance=None, conf=app.conf, options={})
    signals.worker_init.send(sender=None)
    app.log.setup(loglevel, hostname="gpuqueue-runner")
    app.loader.init_worker()
    _ = app.backend, app.amqp.queues, [app.tasks[name].__trace__ for name in app.tasks]
