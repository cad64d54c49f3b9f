"""The finisher: write the outcome of a job whose executor could not, in the code of its
application.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from celery import Celery

from gpuqueue.executor import application
from gpuqueue.executor.waiting import FINISH_PATIENCE, sending
from gpuqueue.glue.messages.bodies import ApplicationBodies
from gpuqueue.glue.results.completion import complete
from gpuqueue.glue.results.events import Event, try_to_send
from gpuqueue.model.ends import EXIT_OK, EXIT_STALE
from gpuqueue.model.record import Record
from gpuqueue.store.finishes import ExecutorFinish
from gpuqueue.store.logs import Logs
from gpuqueue.store.passing import passes


def write_outcome(
    environ: Mapping[str, str],
    finish: ExecutorFinish,
    logs: Logs,
    worker: str,
    describe: Callable[[Celery, Record], object],
) -> int:
    """Write the outcome of a job in place of its executor, with the application's errbacks and
    hooks. ``describe`` is called with the application.
    """
    claimed = finish.claim()
    if claimed is None:
        return EXIT_STALE
    record, stored = claimed
    events: list[Event] = []
    try:
        app = application.load(
            environ.get("GPUQUEUE_APP"),
            worker,
            environ.get("GPUQUEUE_LOG_LEVEL", "INFO"),
            FINISH_PATIENCE,
        )
        describe(app, record)
        log = logs.for_result(record)
        with sending():
            reason = complete(
                app,
                record,
                stored,
                ApplicationBodies(app),
                send=events.append,
                hostname=record.get("worker") or worker,
                own_tasks=True,
                log=log,
            )
    except Exception as exc:
        finish.failed(f"{type(exc).__name__}: {exc}", passing=passes(exc))
        raise
    finish.finished(reason)
    try_to_send(app, events)
    return EXIT_OK
