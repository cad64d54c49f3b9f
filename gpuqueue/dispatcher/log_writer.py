"""Write the whole logs of ended attempts to the sink, beside the path of jobs.

Each log is noted in Redis before its source may go, and written by a thread that may wait. What a
dispatcher has noted and not written, another one writes, or notes as missing.

Never here: where a log comes from, and how a sink writes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from gpuqueue.dispatcher.background import BackgroundQueue
from gpuqueue.launchers.base import FindLog, LogGone, LogSource, NoLog
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record
from gpuqueue.store.client import Redis
from gpuqueue.store.clock import redis_time
from gpuqueue.store.reader import Reader
from gpuqueue.store.whole_logs import DueLog, WholeLogNotes
from gpuqueue.telemetry import WHOLE_LOGS
from gpuqueue.whole_logs.sink import Sink

logger = logging.getLogger(__name__)
#: Logs that wait in this process. Those beyond it are found again by their notes.
LIMIT = 1000
#: Seconds between two looks for what no dispatcher writes, after which a log may be that, and for
#: which another dispatcher may be silent that has noted it.
LOOK, LEFT, SILENT = 5.0, 5.0, 15.0
#: Seconds after which a log is given up: no source keeps one for longer.
LONGEST = 8 * 86_400.0
#: Record fields that describe a log.
DESCRIBED = (
    *("id", "delivery", "name", "gpu_class", "isolation", "tenant", "attempt", "state", "reason"),
    *("exit_code", "instance", "node", "pod", "image", "worker", "created", "admitted"),
    *("container_started", "started", "released", "ended"),
)


class LogWriter:
    """See :class:`gpuqueue.launchers.base.WholeLogs`. Thread-safe.

    Args:
        client: of the Redis that has the state.
        sink: where logs are written.
        name: of this dispatcher.
        keep: seconds for which the notes of written logs are kept.
        find: finds the sources of logs that other dispatchers have noted.
    """

    def __init__(
        self,
        client: Redis,
        reader: Reader,
        sink: Sink,
        name: str,
        keep: float,
        find: FindLog,
    ) -> None:
        self._client = client
        self._reader = reader
        self._sink = sink
        self._name = name
        self._notes = WholeLogNotes(client, keep, name)
        self._find = find
        self._closed = False
        self._queue: BackgroundQueue[Callable[[], object]] = BackgroundQueue(
            "gpuqueue-whole-logs",
            lambda some: [each() for each in some],
            passes=lambda exc: True,
            lost=lambda count: None,
            limit=LIMIT,
            at_once=1,
            in_turn=True,
        )

    def start(self) -> None:
        """Look for what earlier dispatchers have left, from now on."""
        self._queue.put("look", self._look)

    def keep(self, attempt: Attempt, source: LogSource) -> None:
        """Have a log written, unless it is, or another attempt has the number by now."""
        wanted = True
        try:
            wanted = self._is_current(attempt) and self._notes.due(attempt, source.where)
        finally:  # where the note cannot be made now, the thread makes it
            if wanted:
                self._put(attempt, source)

    def before(self, attempt: Attempt) -> list[Attempt]:
        """Return the attempts that its instance has ended before it, oldest first."""
        found: list[Attempt] = []
        record = self._reader.record(attempt.gpu_class, attempt.delivery)
        for _ in range(record.get("warm_turn", 0) if record else 0):
            last = Attempt.parse(attempt.gpu_class, (record or {}).get("warm_after", ""))
            if last is None:
                break
            found.append(last)
            record = self._reader.record(last.gpu_class, last.delivery)
        return found[::-1]

    def close(self) -> None:
        """Write what waits, unless that takes long. The rest is left to another dispatcher."""
        self._closed = True
        self._queue.close()

    def _put(self, attempt: Attempt, source: LogSource) -> None:
        self._queue.put(attempt, partial(self._write, attempt, source))

    def _is_current(self, attempt: Attempt) -> bool:
        known = self._reader.record(attempt.gpu_class, attempt.delivery)
        if known is None or known.get("attempt", 0) < attempt.number:
            return False
        if known["attempt"] > attempt.number or not attempt.token:
            return True
        return known.get("token", attempt.token) == attempt.token

    def _write(self, attempt: Attempt, source: LogSource) -> None:
        note = self._notes.due_of(attempt)
        if note is None:  # it is written, or its note could not be made yet
            if self._notes.result(attempt) or not self._is_current(attempt):
                return
            self._notes.due(attempt, source.where)
            note = self._notes.due_of(attempt)
            if note is None:
                return
        try:
            size = self._sink.write(f"{note.name}.log", source.read())
            self._sink.write(f"{note.name}.json", [self._description(attempt, size)])
        except NoLog:
            self._notes.forget(attempt)
        except LogGone as exc:
            self._missing(attempt, note, str(exc))
        except Exception as exc:
            if self._closed:
                return  # another dispatcher finds the note
            WHOLE_LOGS.labels("later").inc()
            self._notes.failed(attempt, note, f"{exc}"[:500])
            raise
        else:
            WHOLE_LOGS.labels("written").inc()
            self._notes.written(attempt, note.name, size)

    def _missing(self, attempt: Attempt, note: DueLog, why: str) -> None:
        WHOLE_LOGS.labels("missing").inc()
        why = f"{why}; it could not be written before: {note.error}" if note.error else why
        self._notes.missing(attempt, why)
        logger.error(
            "%s: its whole log is not in the sink: %s",
            attempt.holder,
            why,
            extra={"action": "whole_log_missing"},
        )

    def _description(self, attempt: Attempt, size: int) -> bytes:
        record: Mapping[str, Any] = (
            self._reader.record(attempt.gpu_class, attempt.delivery) or Record()
        )
        if record.get("attempt") != attempt.number:  # the record is of a later one by now
            record = {name: record[name] for name in ("id", "name", "tenant") if name in record}
        known = {name: record[name] for name in DESCRIBED if name in record}
        own = {
            "gpu_class": attempt.gpu_class,
            "delivery": attempt.delivery,
            "attempt": attempt.number,
            "bytes": size,
        }
        return json.dumps({**known, **own}, indent=2).encode() + b"\n"

    def _look(self) -> None:
        """Take over logs that are due for long, and come back."""
        if self._closed:
            return
        try:
            now = redis_time(self._client)
            self._take_over(self._notes.all_due(self._reader.classes()).items(), now)
        finally:
            self._queue.put("look", self._look, LOOK)

    def _take_over(self, due: Iterable[tuple[Attempt, DueLog]], now: float) -> None:
        others = set(self._reader.dispatchers(now - SILENT)) - {self._name}
        for attempt, note in due:
            if attempt in self._queue or now - note.at < LEFT or note.by in others:
                continue
            if now - note.at >= LONGEST:
                self._missing(attempt, note, "no dispatcher has found it")
            elif (source := self._find(note.where)) is not None:
                self._put(attempt, source)
