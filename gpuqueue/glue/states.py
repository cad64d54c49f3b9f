"""Write a state that is no result (QUEUED, DISPATCHED) into Celery's result backend."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.app.task import Context
from celery.backends.base import BaseKeyValueStoreBackend

from gpuqueue.job import Record

logger = logging.getLogger(__name__)


class States:
    """Tells a job's state where ``AsyncResult`` looks."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def tell(self, record: Record, state: str, packed: Mapping[str, Any] | None) -> None:
        """Store a state. It is for people's eyes: a backend that is away holds no job up."""
        backend = self._app.backend
        info = {"gpu_class": record["gpu_class"], "isolation": record["isolation"], "attempt": record.get("attempt", 0)}
        headers = packed["headers"] if packed else {"id": record["id"], "task": record.get("task")}
        request = Context({**headers, "args": [], "kwargs": {}, "delivery_info": {}})
        try:
            if isinstance(backend, BaseKeyValueStoreBackend):
                # One round trip: store_result would read the key first, and nobody else writes at this moment.
                meta = backend._get_result_meta(result=info, state=state, traceback=None, request=request)
                meta["task_id"] = record["id"]
                backend.set(backend.get_key_for_task(record["id"]), backend.encode(meta))
            else:
                backend.store_result(record["id"], info, state, request=request)
        except Exception as exc:
            logger.warning("state %s of %s not stored: %s", state, record["id"], exc, extra={"action": "state_lost"})

    def refresh(self, record: Record, group: str | None) -> None:
        """Keep the state of a long job, and the chord it is part of, from expiring under it (Redis backend)."""
        backend = self._app.backend
        if not backend.expires or not hasattr(backend, "expire"):
            return
        keys = [backend.get_key_for_task(record["id"])]
        if group:
            keys += [backend.get_key_for_group(group, suffix) for suffix in ("", ".j", ".t", ".s")]
        for key in keys:
            backend.expire(key, backend.expires)
