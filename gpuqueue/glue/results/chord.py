"""Fail the body of a chord whose unlock has ended without it, by Celery's code: else no caller of
the chord would see an end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.canvas import maybe_signature
from celery.exceptions import ChordError
from celery.utils.log import get_logger

from gpuqueue.errors import MalformedMessage
from gpuqueue.glue.messages.bodies import Bodies
from gpuqueue.glue.messages.message import payload
from gpuqueue.model.names import UNLOCK
from gpuqueue.model.record import Record

logger = get_logger(__name__)


def fail_body(
    app: Celery, record: Record, stored: Mapping[str, Any] | None, bodies: Bodies, exc: Exception
) -> None:
    """Store the failure of a chord's body, and call its errbacks, if a record is of an unlock that
    has neither sent the body nor a retry of itself. ``app`` is the application of the job. May be
    repeated: errbacks are called again.
    """
    if record.get("task") != UNLOCK or record.get("outcome") or stored is None:
        return
    try:
        args, kwargs, _ = payload(stored, bodies)
        body = maybe_signature(args[1] if len(args) > 1 else kwargs["callback"], app=app)
    except (MalformedMessage, KeyError) as problem:
        logger.warning(
            "%s: the body of its chord cannot be told of its end: %s",
            record["delivery"],
            problem,
            extra={"action": "chord_lost"},
        )
        return
    try:
        raise ChordError(f"the header cannot be awaited: {exc}") from exc
    except ChordError as error:  # Celery stores the stack from which it is called
        app.backend.chord_error_from_stack(callback=body, exc=error)
