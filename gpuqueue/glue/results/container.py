"""Write the result of a container job: its state, callbacks, chain and chord part, by Celery's
tracer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from celery import Celery, states
from celery.app.task import Context
from celery.app.trace import TraceInfo, build_tracer
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from kombu.exceptions import OperationalError
from redis import RedisError

from gpuqueue.errors import MalformedMessage
from gpuqueue.glue.messages import message as messages
from gpuqueue.glue.messages.bodies import Bodies
from gpuqueue.glue.results.earlier import state_of
from gpuqueue.glue.results.events import Event, Sender
from gpuqueue.glue.stand_in import stand_in
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record

logger = get_logger(__name__)
#: Errors of the broker and the backend. The container has succeeded, so they are no failure of it.
_ELSEWHERE = (OperationalError, RedisError, OSError)


def succeed(
    app: Celery,
    record: Record,
    stored: Mapping[str, Any] | None,
    request: Context,
    bodies: Bodies,
    log: str,
    send: Sender,
) -> str:
    """Store the result of a container job after its callbacks; return the outcome.

    Without its message (lost with the data of Redis) or a readable body, only the result is stored.
    Raises the errors of broker and backend: nothing is stored then, and the finish is repeated.
    """
    # The first try of a finish finds none but that of an earlier run of the id.
    again = record.get("finishes", 0) != 1 and not record.get("ignore_result")
    if again and state_of(app, record) == states.SUCCESS:
        return EndReason.SUCCEEDED  # an earlier finisher has stored it, after its callbacks
    result = _result(app, record, log)
    body = _body(stored, bodies)
    if stored is None or body is None:
        app.backend.store_result(record["id"], result, states.SUCCESS, request=request)
        return EndReason.SUCCEEDED

    def run(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return result

    hostname = request.hostname
    task = stand_in(app, CONTAINER_TASK, run, ignore_result=bool(record.get("ignore_result")))
    made, context = messages.request(stored, body, app, hostname=hostname, task=task)
    tracer = build_tracer(task.name, task, app.loader, hostname, Info=_Info, app=app)
    _, info, runtime, shown = tracer(made.id, made.args, made.kwargs, context)
    if info is not None:  # its callbacks cannot be read
        failed = {"exception": saferepr(info.retval), "traceback": ""}
        send(Event(record["gpu_class"], "task-failed", made.id, failed))
        return EndReason.ERROR
    ran = record.get("released", 0.0) - record.get("started", 0.0)
    told = {"result": shown, "runtime": max(runtime, ran)}
    send(Event(record["gpu_class"], "task-succeeded", made.id, told))
    return EndReason.SUCCEEDED


class _Info(TraceInfo):
    """How the tracer ended. Celery would store a failure if a callback cannot be sent for now."""

    def handle_error_state(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.retval, _ELSEWHERE):
            raise self.retval
        return super().handle_error_state(*args, **kwargs)


def _result(app: Celery, record: Record, log: str) -> dict[str, Any]:
    """Return the result, with the message of the container as JSON, or as text if that cannot be
    stored.
    """
    text: Any = record.get("message", "")
    plain = {"exit_code": record.get("exit_code", 0), "message": text, "log": log}
    try:
        found = {**plain, "message": json.loads(text)}
        app.backend.encode(found)
    except Exception:  # kombu has one error for all that its serializers raise
        return plain
    return found


def _body(stored: Mapping[str, Any] | None, bodies: Bodies) -> messages.Payload | None:
    try:
        return messages.payload(stored, bodies) if stored is not None else None
    except MalformedMessage as exc:
        logger.warning("no callback is sent: %s", exc, extra={"action": "body_closed"})
        return None
