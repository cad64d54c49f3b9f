"""Write the outcome of a job whose callbacks cannot be sent: the state alone, with a note of why.

Chord and chain learn of it if that is possible. Never here: code of the application, and errbacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery, states
from celery.app.task import Context
from celery.exceptions import TaskRevokedError
from celery.utils.log import get_logger

from gpuqueue.errors import FinishFailed
from gpuqueue.glue.messages.bodies import Bodies
from gpuqueue.glue.messages.message import context
from gpuqueue.glue.results.completion import exception_of
from gpuqueue.glue.results.earlier import state_of
from gpuqueue.glue.results.events import Event, Sender
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.signals import number_of

logger = get_logger(__name__)


def write_plainly(
    app: Celery,
    record: Record,
    stored: Mapping[str, Any] | None,
    bodies: Bodies,
    *,
    send: Sender,
    hostname: str,
    note: str,
    passes: Callable[[BaseException], bool],
) -> str:
    """Write the outcome of a record without callbacks, and return it. May be repeated.

    ``note`` is added to the text of the error. A result that the executor has stored stays.
    Raises what ``passes``, and any error of the result itself.
    """
    reason, outcome = record["reason"], record.get("outcome")
    keeps_result = not record.get("ignore_result") or app.conf.task_store_errors_even_if_ignored
    if outcome and keeps_result:
        kept = state_of(app, record)
        if kept == states.SUCCESS and outcome == EndReason.SUCCEEDED:
            return EndReason.SUCCEEDED
        if kept == states.FAILURE and outcome in (EndReason.ERROR, EndReason.GPU_OOM):
            return outcome
    if reason == EndReason.SUCCEEDED:  # a container job, whose result waits for its callbacks
        reason = EndReason.ERROR
    revoked = reason in (EndReason.CANCELLED, EndReason.EXPIRED)
    state = states.REVOKED if revoked else states.FAILURE
    exc = _revoked(record) if revoked else _noted(record, note)
    request = _request(record, stored, bodies)
    request.hostname = hostname
    if keeps_result:
        app.backend.store_result(record["id"], exc, state, request=request)
    try:
        if revoked:
            app.backend.mark_as_revoked(record["id"], str(exc), request, keeps_result)
        else:
            app.backend.mark_as_failure(
                record["id"], exc, None, request, keeps_result, call_errbacks=False
            )
    except Exception as error:
        if passes(error):
            raise
        logger.warning(
            "%s: its chord or chain is not told of its end: %s: %s",
            record["id"],
            type(error).__name__,
            error,
            extra={"action": "chord_lost"},
        )
    fields: dict[str, Any] = {"exception": repr(exc), "traceback": ""}
    if revoked:
        expired, terminated = reason == EndReason.EXPIRED, bool(record.get("started"))
        signum = number_of(record.get("cancel")) if terminated else None
        fields = {"terminated": terminated, "signum": signum, "expired": expired}
    name = "task-revoked" if revoked else "task-failed"
    send(Event(record["gpu_class"], name, record["id"], fields))
    return reason


def _request(record: Record, stored: Mapping[str, Any] | None, bodies: Bodies) -> Context:
    try:
        return context(stored, record, bodies)
    except Exception as exc:
        logger.warning("%s: its message cannot be used: %s", record["id"], exc)
        return context(None, record, bodies)


def _revoked(record: Record) -> Exception:
    expired, terminated = record["reason"] == EndReason.EXPIRED, bool(record.get("started"))
    why = "expired" if expired else "terminated" if terminated else "revoked"
    made: Exception = TaskRevokedError(why)
    return made


def _noted(record: Record, note: str) -> Exception:
    """Return the exception of a record with the note in its text."""
    if record["reason"] == EndReason.SUCCEEDED:
        return FinishFailed(f"job {record['id']}: its container succeeded, but {note}")
    exc = exception_of(record)
    if len(exc.args) == 1 and isinstance(exc.args[0], str):
        return type(exc)(f"{exc.args[0]}; {note}")
    return type(exc)(*exc.args, note)
