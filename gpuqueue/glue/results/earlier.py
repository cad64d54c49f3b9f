"""The result of an earlier run of a task id. It stays in the result backend while the next run goes
on, and for good if it is a success: it must not be taken for a result of that run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery, states

from gpuqueue.model.record import Record


def mark(meta: Mapping[str, Any]) -> str:
    """Return what tells a result from later ones of its id: when it was stored, by the clock of its
    writer, compared for equality only. Empty: it is no result, or does not say.
    """
    if meta.get("status") not in states.READY_STATES:
        return ""
    return str(meta.get("date_done") or "")


def state_of(app: Celery, record: Record) -> str | None:
    """Return the state that the run of a record has stored; None: what is stored was there before
    its task began.
    """
    meta: Mapping[str, Any] = app.backend.get_task_meta(record["id"], cache=False)
    earlier = record.get("earlier")
    return None if earlier and mark(meta) == earlier else str(meta["status"])
