"""Write the outcome of a job in place of its executor: state, chord part, errbacks and events, with
Celery's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Celery, signals, states
from celery.app.task import Context
from celery.app.trace import TraceInfo
from celery.exceptions import TimeLimitExceeded
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from celery.worker.request import Request

from gpuqueue import errors
from gpuqueue.errors import MalformedMessage, UntrustedMessage
from gpuqueue.glue.messages.bodies import Bodies
from gpuqueue.glue.messages.message import context, payload
from gpuqueue.glue.messages.message import request as celery_request
from gpuqueue.glue.messages.request_class import class_of, tell
from gpuqueue.glue.results.chord import fail_body
from gpuqueue.glue.results.container import succeed
from gpuqueue.glue.results.earlier import state_of
from gpuqueue.glue.results.events import Event, Heard, Sender
from gpuqueue.glue.stand_in import stand_in
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.ends import EXIT_OK
from gpuqueue.model.reasons import LOST, LOST_RETRY, EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.signals import number_of

logger = get_logger(__name__)
#: Ends with a specific error type. For other ends it depends on the progress of the attempt.
_ERRORS: dict[str, type[errors.GpuQueueError]] = {
    EndReason.HOST_OOM: errors.HostOutOfMemory,
    EndReason.EVICTED: errors.Evicted,
    EndReason.PREEMPTED: errors.Preempted,
    EndReason.NODE_LOST: errors.NodeLost,
    EndReason.POD_DELETED: errors.PodDeleted,
    EndReason.IMAGE: errors.ImageUnusable,
    EndReason.UNSCHEDULABLE: errors.Unschedulable,
    EndReason.QUOTA: errors.QuotaExceeded,
}
#: The outcome that an executor had reported, by the result that it has stored.
_OUTCOMES = {states.SUCCESS: EndReason.SUCCEEDED, states.FAILURE: EndReason.ERROR}

#: The outcomes of a claim after which Celery may have stored a failure.
_FAILURES = (EndReason.ERROR, EndReason.GPU_OOM, EndReason.SUCCEEDED)


def exception_of(record: Record) -> Exception:
    """Return the typed exception that ``get()`` raises for a job with this end."""
    reason, error = record.get("reason"), record.get("error", "")
    if reason == EndReason.TIME_LIMIT:
        return TimeLimitExceeded(record.get("time_limit"))  # type: ignore[no-any-return]
    if reason == EndReason.REJECTED:
        named = getattr(errors, record.get("error_type", ""), errors.InvalidJob)
        made: Exception = named(error)
        return made
    if reason in _ERRORS:
        return _ERRORS[reason](f"job {record['id']} attempt {record.get('attempt')}: {error}")
    if record.get("timed_out") == "load":
        return errors.StartTimeout(
            f"job {record['id']}: its application was not loaded in time (GPUQUEUE_LOAD_TIMEOUT)"
            f" in {record.get('attempt')} attempts"
        )
    if record.get("timed_out") == "start":
        return errors.StartTimeout(
            f"job {record['id']}: not claimed in time after {record.get('attempt')} attempts:"
            f" {error}"
        )
    if record.get("attempt") and not record.get("started"):
        return errors.LaunchFailed(
            f"job {record['id']}: {record.get('attempt')} attempts failed to start, the last:"
            f" {error}"
        )
    if record.get("task") == CONTAINER_TASK and reason == EndReason.ERROR:
        return errors.ContainerFailed(
            f"job {record['id']} attempt {record.get('attempt')}: {error}"
        )
    if reason == EndReason.INFRA:
        last = f"{error}: {record['gpu_error']}" if "gpu_error" in record else error
        return errors.ExecutorDied(
            f"job {record['id']}: gave up after {record.get('attempt')} attempts, the last: {last}"
        )
    return errors.ExecutorDied(f"job {record['id']} attempt {record.get('attempt')}: {error}")


def complete(
    app: Celery,
    record: Record,
    stored: Mapping[str, Any] | None,
    bodies: Bodies,
    *,
    send: Sender,
    hostname: str,
    own_tasks: bool,
    log: str = "",
) -> str:
    """Write the outcome of a record, and return it. May be repeated: results and chord parts are
    the same again, but errbacks are sent again.

    If the executor died after it had claimed its finish, a result that it had stored counts. So it
    does if the executor ended with exit code 0, or may have gone on with another job: then Redis
    has lost its report. A result that was stored before its task began never counts.

    Args:
        app: the application of the job, or any app in its place.
        record: the record of the job.
        stored: its message, None if it is lost.
        bodies: how to read the body, which names callbacks and chord. If it must not be read, the
            result is stored and nothing is called.
        send: sends events, and does not wait for the broker.
        hostname: the worker that the result names: of the attempt, if there was one.
        own_tasks: whether ``app`` is the job's application, so that the hooks of its task run. The
            tasks of a dispatcher have no part in a job, even if a message has their name.
        log: the end of the log of a container job, part of its result.
    """
    request = context(stored, record, bodies)
    request.hostname = hostname
    task = _task_of(app, record, stored, bodies, own_tasks)
    of_message, heard = (app, task, stored, bodies, request), Heard()
    reason = record["reason"]
    others = record.get("reuse", 0) > 1  # the status may be that of another job of its process
    report_lost = reason == EndReason.ERROR and (others or record.get("exit_code") == EXIT_OK)
    stored_state = (
        state_of(app, record)
        if (record.get("outcome") or report_lost) and not record.get("ignore_result")
        else None
    )
    outcome = record.get("outcome") or _OUTCOMES.get(stored_state or "")
    if record.get("task") == CONTAINER_TASK and reason == EndReason.SUCCEEDED:
        reason = succeed(app, record, stored, request, bodies, log, send)
    elif stored_state == states.SUCCESS and outcome == EndReason.SUCCEEDED:
        # Celery sends callbacks before it stores the result, and the chord part after it: that may
        # be missing, and may be written again.
        reason = EndReason.SUCCEEDED
        if request.chord:
            app.backend.on_chord_part_return(
                request, states.SUCCESS, app.backend.get_result(request.id)
            )
        ran = record["released"] - record["started"]
        send(_event(record, request, "task-succeeded", result="", runtime=ran))
    elif stored_state == states.FAILURE and outcome in _FAILURES:
        # Of a success: Celery could not store it.
        _fail(app, task, record, request, app.backend.get_result(request.id), send)
        reason = EndReason.ERROR if outcome == EndReason.SUCCEEDED else outcome
    elif (
        _wants_retry(record)
        and own_tasks
        and (made := _request_of(*of_message, eventer=heard))
        and _retry(made, task, exception_of(record))
    ):
        for name, fields in heard.events:
            send(_event(record, request, name, **fields))
        reason = EndReason.RETRIED
    elif reason in (EndReason.CANCELLED, EndReason.EXPIRED):
        _revoke(app, task, record, request, send)
    else:
        exc = exception_of(record)
        _fail(app, task, record, request, exc, send)
        if class_of(task) is not Request:
            _tell(_request_of(*of_message), exc)
        if own_tasks and not report_lost:
            fail_body(app, record, stored, bodies, exc)
    return reason


def _trusted(stored: Mapping[str, Any] | None, bodies: Bodies) -> bool:
    try:
        if stored is not None:
            bodies.read(stored)
    except UntrustedMessage:
        return False
    except MalformedMessage:
        pass
    return True


def _task_of(
    app: Celery, record: Record, stored: Mapping[str, Any] | None, bodies: Bodies, own_tasks: bool
) -> Any:
    # An untrusted message must not run the hooks of the application's task.
    if own_tasks and _trusted(stored, bodies) and (known := app.tasks.get(record.get("task"))):
        return known
    # A task without code suffices for states, chords and errbacks sent by name.
    return stand_in(app, record.get("task") or "unknown", lambda *args, **kwargs: None)


def _event(record: Record, request: Context, name: str, **fields: Any) -> Event:
    return Event(record["gpu_class"], name, request.id, fields)


@contextmanager
def _harmless(task: Any, name: str) -> Iterator[None]:
    """Log the error of a hook of a task. Celery calls it when all is written, so its error changes
    nothing.
    """
    inner = getattr(task, name)

    def hook(*args: Any, **kwargs: Any) -> None:
        try:
            inner(*args, **kwargs)
        except Exception:
            logger.exception("%s of %s failed", name, task.name, extra={"action": "hook_failed"})

    setattr(task, name, hook)
    try:
        yield
    finally:
        delattr(task, name)


def _wants_retry(record: Record) -> bool:
    """Whether the application has a task retried whose process is lost."""
    return record.get("if_lost") == LOST_RETRY and record["reason"] in LOST


def _fail(
    app: Celery, task: Any, record: Record, request: Context, exc: Exception, send: Sender
) -> None:
    task.push_request(**vars(request))
    with _harmless(task, "on_failure"):
        try:
            raise exc
        except Exception as raised:
            einfo = TraceInfo(states.FAILURE, raised).handle_error_state(task, request)
        finally:
            task.pop_request()
    shown = str(einfo.traceback) if einfo else ""
    send(_event(record, request, "task-failed", exception=saferepr(exc), traceback=shown))


def _request_of(
    app: Celery,
    task: Any,
    stored: Mapping[str, Any] | None,
    bodies: Bodies,
    context: Context,
    eventer: Any = None,
) -> Request | None:
    """Return the request of Celery for a job; None: its message is lost, cannot be read, or must
    not be.
    """
    try:
        body = None if stored is None else payload(stored, bodies)
    except MalformedMessage:
        body = None
    if stored is None or body is None:
        return None
    known = {"hostname": context.hostname, "eventer": eventer, "task": task}
    return celery_request(stored, body, app, **known)[0]


def _tell(made: Request | None, exc: Exception) -> None:
    """Tell the request class of the task how it ended."""
    if made is None:
        return
    if isinstance(exc, TimeLimitExceeded):
        tell(made, made.on_timeout, False, *exc.args)
    else:
        tell(made, made.on_failure, ExceptionInfo((type(exc), exc, exc.__traceback__)))


def _retry(made: Any, task: Any, exc: Exception) -> bool:
    """Retry a task whose process is lost, as a worker of Celery does. Returns whether the retry is
    sent.
    """
    with _harmless(task, "on_retry"):
        try:
            raise exc
        except Exception:
            sent: bool = made._retry_worker_lost(exc, ExceptionInfo())
    return sent


def _revoke(app: Celery, task: Any, record: Record, request: Context, send: Sender) -> None:
    expired, terminated = record.get("reason") == EndReason.EXPIRED, bool(record.get("started"))
    why = "expired" if expired else "terminated" if terminated else "revoked"
    ignored = record.get("ignore_result") or task.ignore_result
    store = not ignored or bool(task.store_errors_even_if_ignored)
    app.backend.mark_as_revoked(request.id, why, request=request, store_result=store)
    signum = number_of(record.get("cancel")) if terminated else None
    signals.task_revoked.send(
        sender=task, request=request, terminated=terminated, signum=signum, expired=expired
    )
    ended = {"terminated": terminated, "signum": signum, "expired": expired}
    send(_event(record, request, "task-revoked", **ended))
