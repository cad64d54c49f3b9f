"""The result of an earlier run of a task id. It stays in the result backend while the next run goes
on, and for good if it is a success: it must not be taken for a result of that run.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
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
    read = app.backend.get_task_meta
    # Not each backend has a cache: rpc, and those of applications.
    fresh = {"cache": False} if "cache" in signature(read).parameters else {}
    meta: Mapping[str, Any] = read(record["id"], **fresh)
    earlier = record.get("earlier")
    return None if earlier and mark(meta) == earlier else str(meta["status"])
