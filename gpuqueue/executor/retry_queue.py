"""Where the retry of a task goes: a queue of another class, or of ordinary workers, ends the job of
this class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from celery import signals

from gpuqueue.model.escalation import parse_place
from gpuqueue.model.names import may_lead_to
from gpuqueue.model.record import Record


class RetryQueue:
    """Follows the messages of this process while a task runs.

    Args:
        record: of the task.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self.is_elsewhere = False
        """Whether a retry was sent, to a queue that never leads to the class of the record."""

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Notice a retry that is sent meanwhile."""
        signals.after_task_publish.connect(self._sent)
        try:
            yield
        finally:
            signals.after_task_publish.disconnect(self._sent)

    def _sent(
        self,
        headers: Mapping[str, Any] | None = None,
        exchange: Any = None,
        routing_key: Any = None,
        **_: object,
    ) -> None:
        known = headers or {}
        later = (known.get("retries") or 0) > self._record.get("retries", 0)
        if later and known.get("id") == self._record["id"]:
            # A job that came from another class gets the retries of that one's queues here, too.
            before = parse_place(self._record.get("escalated"))
            classes = [self._record["gpu_class"], *(before[:1] if before else ())]
            # With an exchange, the broker decides which queue it is.
            leads_here = exchange or any(may_lead_to(str(routing_key), name) for name in classes)
            self.is_elsewhere = not leads_here
