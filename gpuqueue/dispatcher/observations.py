"""What a launcher that watches tells: kept in Redis, in Celery's backend and in events, for whoever
asks or comes after it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery import Celery, states

from gpuqueue.errors import StaleAttempt
from gpuqueue.glue.results.events import Events
from gpuqueue.glue.results.states import States
from gpuqueue.launchers.base import Held, Observed
from gpuqueue.model.job import Record
from gpuqueue.model.names import holder_name
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.attempts import Attempt, Attempts
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs
from gpuqueue.store.reader import Reader

logger = logging.getLogger(__name__)


@dataclass
class KeptNotes:
    """See :class:`gpuqueue.launchers.base.Notes`; safe to call from any thread."""

    line: Line
    reader: Reader
    attempts: Attempts
    logs: Logs
    states: States
    app: Celery

    def observed(self, seen: list[Observed]) -> None:
        """Note what attempts wait for, in one round trip."""
        said = []
        for each in seen:
            held = each.held
            of = (held.gpu_class, held.delivery, held.attempt)
            said.append((*of, each.wait or "", each.detail, each.pod, each.node, each.claim_within))
        self.line.observed(said)

    def doom(self, held: Held, reason: EndReason, error: str) -> bool:
        """Note why an attempt is given up, before it is ended."""
        return self.line.give_up(held.gpu_class, held.delivery, held.attempt, reason, error)

    def begun(self, held: Held, record: Record, worker: str) -> None:
        """Claim a container job's attempt for its pod, and tell STARTED. May be repeated."""
        attempt = Attempt(held.gpu_class, held.delivery, held.attempt, record["token"])
        try:
            claimed, stored = self.attempts.claim(attempt, held.instance, worker)
        except StaleAttempt as exc:
            logger.warning(
                "%s: runs unclaimed: %s", held.delivery, exc, extra={"action": "begun_stale"}
            )
            return
        if not claimed.get("ignore_result"):
            self.states.tell(claimed, states.STARTED, _named(stored))
        with Events(self.app, worker, leaves=False) as events:
            events.send("task-started", claimed["id"])

    def wants_log(self, held: Held) -> bool:
        """Whether the job is known, and nothing of the attempt's log is kept yet."""
        known = self.reader.record(held.gpu_class, held.delivery)
        return known is not None and not self.logs.has(
            held.gpu_class, holder_name(held.delivery, held.attempt)
        )

    def keep_log(self, held: Held, text: str) -> None:
        """Keep the end of an attempt's log as long as the job is remembered."""
        self.logs.keep(
            held.gpu_class, holder_name(held.delivery, held.attempt), text, self.line.keep
        )


def _named(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"headers": stored["headers"]}
