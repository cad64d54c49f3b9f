"""Write a state that is not a result (QUEUED, DISPATCHED, STARTED) into Celery's result backend."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from celery import Celery
from celery.app.task import Context
from celery.backends.base import BaseKeyValueStoreBackend

from gpuqueue.model.record import Record

logger = logging.getLogger(__name__)
#: Records refreshed in one round trip.
REFRESHED_AT_ONCE = 500


class ResultStates:
    """Stores the states of jobs for ``AsyncResult``."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def store(self, record: Record, state: str, packed: Mapping[str, Any] | None) -> None:
        """Store a state. It is informational: an unreachable backend delays no job."""
        backend = self._app.backend
        info = {
            "gpu_class": record["gpu_class"],
            "isolation": record["isolation"],
            "attempt": record.get("attempt", 0),
        }
        headers = packed["headers"] if packed else {"id": record["id"], "task": record.get("task")}
        request = Context({**headers, "args": [], "kwargs": {}, "delivery_info": {}})
        try:
            if isinstance(backend, BaseKeyValueStoreBackend):
                # One round trip: store_result would read the key first, but at this moment no other
                # process writes it.
                meta = backend._get_result_meta(
                    result=info, state=state, traceback=None, request=request
                )
                meta["task_id"] = record["id"]
                backend.set(backend.get_key_for_task(record["id"]), backend.encode(meta))
            else:
                backend.store_result(record["id"], info, state, request=request)
        except Exception as exc:
            logger.warning(
                "state %s of %s not stored: %s",
                state,
                record["id"],
                exc,
                extra={"action": "state_lost"},
            )

    @property
    def refresh_seconds(self) -> float | None:
        """Seconds between two refreshes: a quarter of the expiry; None if the states do not expire,
        or the backend cannot extend them.
        """
        backend = self._app.backend
        return (
            backend.expires / 4
            if getattr(backend, "expires", None) and hasattr(backend, "expire")
            else None
        )

    def refresh(self, records: Iterable[Record]) -> None:
        """Extend the expiry of the states of long jobs, and of their chords (Redis backend)."""
        backend = self._app.backend
        for some in batched(records, REFRESHED_AT_ONCE):
            pipe = backend.client.pipeline(transaction=False)
            for record in some:
                keys = [backend.get_key_for_task(record["id"])]
                if "group" in record:
                    keys += [
                        backend.get_key_for_group(record["group"], suffix)
                        for suffix in ("", ".j", ".t", ".s")
                    ]
                for key in keys:
                    pipe.expire(key, backend.expires)
            pipe.execute()


def batched(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """Yield lists of up to ``size`` records."""
    left = iter(records)
    while some := list(islice(left, size)):
        yield some
