"""Finish jobs in the dispatcher itself: their outcome with callbacks by name, or the outcome alone
where no callback can be sent. A try that fails is recorded, and another follows after a pause.
"""

from __future__ import annotations

import logging
from typing import Any

from gpuqueue.dispatcher.timer import Timer
from gpuqueue.glue.messages.bodies import DispatcherBodies
from gpuqueue.glue.results.completion import complete
from gpuqueue.glue.results.events import Sender
from gpuqueue.glue.results.plain import write_plainly
from gpuqueue.model.record import Record
from gpuqueue.store.client import RedisError
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs
from gpuqueue.store.passing import forbidden, passes

logger = logging.getLogger(__name__)
#: How often the outcome alone is tried, after everything else: with the pauses about 10 minutes.
PLAIN_TRIES = 12
#: Seconds until the failure of a finish is recorded again, while Redis is away.
AGAIN = 1.0


class HereFinisher:
    """Writes outcomes. Thread-safe.

    Args:
        line, logs: the state.
        app: the dispatcher's Celery application.
        hostname: the worker that the result of a job without an attempt names.
        send: sends events, and does not wait for the broker.
        bodies: how the dispatcher reads bodies.
        lease: seconds that a finish may take until another dispatcher may repeat it.
    """

    def __init__(
        self,
        line: Line,
        logs: Logs,
        app: Any,
        hostname: str,
        send: Sender,
        bodies: DispatcherBodies,
        lease: float,
    ) -> None:
        self._line = line
        self._logs = logs
        self._app = app
        self._hostname = hostname
        self._send = send
        self._bodies = bodies
        self._lease = lease
        self._timer = Timer("gpuqueue-finish-later", "finish later")

    def finish(
        self, gpu_class: str, delivery: str, finisher: str, tries: int, *, instead: bool
    ) -> None:
        """Write an outcome with its callbacks, in the tries up to the number ``tries``; then the
        outcome alone. ``instead``: the application has failed to finish it.
        """
        answer, record, stored = self._line.finish_claim(
            gpu_class, delivery, finisher, self._lease, begins=True
        )
        if answer != "ok" or record is None:
            return
        number, error = record.get("finishes", 0), record.get("finish_error", "")
        note = _note(number - 1, error) if error else ""
        if number <= tries:
            try:
                self._write(gpu_class, record, stored, finisher, note if instead else "")
                return
            except Exception as exc:
                error = f"{type(exc).__name__}: {exc}"
                if passes(exc) or number < tries:
                    self.failed(gpu_class, delivery, finisher, error, passes(exc))
                    return
                note = _note(number, error)
        note = f"no callback was sent: {note or 'each try to finish it was cut off'}"
        self._write_plainly(gpu_class, record, stored, finisher, note, tries)

    def _write(self, gpu_class: str, record: Record, stored: Any, finisher: str, note: str) -> None:
        known = record
        if note:
            known = {**record, "error": "; ".join(filter(None, [record.get("error"), note]))}
        reason = complete(
            self._app,
            known,
            stored,
            self._bodies,
            send=self._send,
            hostname=record.get("worker") or self._hostname,
            own_tasks=False,
            log=self._logs.for_result(record),
        )
        given_up = known.get("error", "") if note else ""
        self._line.finished(gpu_class, record["delivery"], finisher, reason, given_up)
        if note:
            logger.warning(
                "%s: finished without its application: %s",
                record["delivery"],
                note,
                extra={"action": "finish_here"},
            )
        logger.info("%s finished: %s", record["delivery"], reason, extra={"action": "finished"})

    def _write_plainly(
        self, gpu_class: str, record: Record, stored: Any, finisher: str, note: str, tries: int
    ) -> None:
        delivery, reason = record["delivery"], record["reason"]
        hostname = record.get("worker") or self._hostname
        try:
            reason = write_plainly(
                self._app,
                record,
                stored,
                self._bodies,
                send=self._send,
                hostname=hostname,
                note=note,
                passes=passes,
            )
        except Exception as exc:
            # No sender decides where a result is stored: a missing right is the operator's.
            waits = passes(exc) or forbidden(exc)
            if waits or record.get("finishes", 0) < tries + PLAIN_TRIES:
                self.failed(gpu_class, delivery, finisher, f"{type(exc).__name__}: {exc}", waits)
                return
            note = f"no result was stored: {type(exc).__name__}: {exc}; {note}"
        text = "; ".join(filter(None, [record.get("error"), note]))
        self._line.finished(gpu_class, delivery, finisher, reason, text)
        logger.error(
            "%s finished: %s: %s", delivery, reason, note, extra={"action": "finish_plain"}
        )

    def failed(
        self, gpu_class: str, delivery: str, finisher: str, error: str, passing: bool = False
    ) -> None:
        """Record that a try failed. While Redis is away, that is the cause, or might be."""
        try:
            told = self._line.finish_failed(gpu_class, delivery, finisher, error, passing=passing)
        except RedisError as exc:
            if not passes(exc):
                raise
            self._timer.call(
                AGAIN,
                lambda: self.failed(gpu_class, delivery, finisher, error, passing=True),
                delivery,
            )
            return
        if told is None:
            return  # it is finished, or the executor has recorded its failure
        number, waits = told
        if passing:
            logger.warning(
                "%s: not finished for %s s, tried again: %s",
                delivery,
                waits,
                error,
                extra={"action": "finish_waits"},
            )
        else:
            logger.warning(
                "%s: try %s to finish it failed: %s",
                delivery,
                number,
                error,
                extra={"action": "finish_again"},
            )

    def held(self, gpu_class: str, delivery: str, finisher: str, place: str, error: str) -> None:
        """Record that the cluster gives the finisher of a job no pod: the job waits for it."""
        try:
            pause = self._line.finish_held(gpu_class, delivery, finisher, place, error)
        except RedisError as exc:
            if not passes(exc):
                raise
            self.failed(gpu_class, delivery, finisher, error, passing=True)
            return
        if pause is not None:
            logger.warning(
                "%s: its finisher gets no pod, tried again in %s s: %s",
                delivery,
                pause,
                error,
                extra={"action": "finish_held"},
            )

    def close(self) -> None:
        """Drop what waits for Redis: the claims expire, and another dispatcher takes over."""
        self._timer.close()


def _note(tries: int, error: str) -> str:
    return f"it could not be finished (tries: {tries}; the last error: {error})"
