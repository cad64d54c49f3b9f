"""A task that rejects its message, whose process is lost, or whose error the tracer leaves to its
worker: its job ends, or goes on, as on a worker of Celery.
"""

from __future__ import annotations

import warnings
from typing import Any

import celery
from billiard.einfo import ExceptionInfo
from celery.exceptions import Reject
from celery.utils.saferepr import saferepr
from celery.worker.request import Request

from gpuqueue.glue.messages.request_class import as_received
from gpuqueue.model.ends import EXECUTORS_OWN
from gpuqueue.model.reasons import LOST_REQUEUE, LOST_RETRY, EndReason
from gpuqueue.model.text import fitting

#: Whether Celery stores a failure for ``Reject(requeue=False)``. Earlier ones store nothing.
STORES_FAILURE = celery.VERSION >= (5, 7)
#: Whether Celery retries tasks whose process is lost. Earlier ones than 5.7 do not.
RETRIES_LOST = hasattr(Request, "_retry_worker_lost")
#: How many characters the record keeps of why a job is delivered again.
MOST_REASON = 300


def outcome_of(exc: Reject, task: Any) -> EndReason:
    """Return what Celery makes of a task that rejects its message. Without ``acks_late`` it has
    acknowledged the message before the task began: nothing is left to deliver again.
    """
    if exc.requeue:
        return EndReason.REQUEUED if task.acks_late else EndReason.IGNORED
    return EndReason.ERROR if STORES_FAILURE else EndReason.IGNORED


def reason_of(exc: Reject) -> str:
    """Return why a job is delivered again, for its record."""
    return fitting(f"the task rejected its message: {saferepr(exc.reason)}", MOST_REASON)


def if_lost(task: Any, retries: int) -> str | None:
    """Return what Celery does if the process of a task is lost while it runs: ``requeue`` its
    message, or ``retry`` the task; None: the task fails.
    """
    if RETRIES_LOST and task.retry_on_worker_lost:
        left = task.max_retries is None or retries < task.max_retries
        return LOST_RETRY if left else None
    return LOST_REQUEUE if task.acks_late and task.reject_on_worker_lost else None


def status_of(exc: SystemExit | KeyboardInterrupt) -> int:
    """Return the status with which a process ends that its task has ended: never one by which an
    executor says something else, as that it has reported.
    """
    code = getattr(exc, "code", None)
    if not isinstance(code, int) or not 0 < code < 256 or code in EXECUTORS_OWN:
        return 1
    return int(code)


def reject(request: Request, task: Any, failed: ExceptionInfo) -> None:
    """Take Celery's steps for a task that has rejected its message: a failure is stored, and events
    are sent, as its version does.
    """
    if not task.acks_late:
        Request.acknowledge(request)
    # Celery's own steps: the application's request class is told beside them.
    Request.on_failure(request, as_received(failed), return_ok=True)


def fail(request: Request, failed: ExceptionInfo) -> None:
    """Take Celery's steps for an error that the tracer has not stored, since it is no
    :class:`Exception`, or came from the tracer itself: a failure is stored, and an event is sent.
    """
    with warnings.catch_warnings():  # the task may have made errors of them
        warnings.simplefilter("ignore")
        Request.on_failure(request, failed)
