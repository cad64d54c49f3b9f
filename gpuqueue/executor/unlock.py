"""Wait for the header of a chord in one process. Celery's own task, for result backends without
chords, retries itself after each look at the header: here each retry would be another job, and the
start of another process.

Never here: a GPU. An unlock that an older dispatcher has given one retries as in Celery.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from celery.exceptions import Retry

from gpuqueue.model.names import CHORDS, UNLOCK
from gpuqueue.model.record import Record

#: Seconds for which one attempt looks at the header: each one leaves a tombstone.
PATIENCE = 60.0
#: Seconds for which it does so at least, however many wait for its slot: to start a process for
#: each look would use up the CPU of the machine.
TURN = 1.0


class _LookAgain(Retry):
    """In place of a retry: the unlock lets no other exception pass. ``when`` is the pause in
    seconds.
    """


def is_unlock(record: Record) -> bool:
    """Whether a record is of an unlock that has no GPU."""
    return record.get("gpu_class") == CHORDS and record.get("task") == UNLOCK


def patience(limits: Iterable[float | None]) -> float:
    """Return the seconds for which an unlock may look, by its hard and its soft time limit: Celery
    means them for each look.
    """
    return min([PATIENCE, *(limit / 2 for limit in limits if limit)])


def patient(
    task: Any, inner: Callable[..., Any], seconds: float, others_wait: Callable[[], bool]
) -> Callable[..., Any]:
    """Return the code of an unlock that looks again in place of its retries, with their pauses, and
    counts them as retries. It is retried as in Celery after so many ``seconds``, after the last
    retry that it may have, and after a turn if ``others_wait`` for a slot.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        began, retry = time.monotonic(), task.retry

        def look_again(*retried: Any, **options: Any) -> Any:
            pause, most = options.get("countdown"), options.get("max_retries")
            pause = task.default_retry_delay if pause is None else pause
            most = task.max_retries if most is None else most
            looked = time.monotonic() - began
            last = looked + pause > seconds or (most is not None and task.request.retries >= most)
            if retried or last or (looked >= TURN and others_wait()):
                return retry(*retried, **options)
            raise _LookAgain(when=pause)

        task.retry = look_again
        try:
            while True:
                try:
                    return inner(*args, **kwargs)
                except _LookAgain as exc:
                    time.sleep(exc.when)
                task.request.retries += 1
        finally:
            del task.retry

    return run
