"""Run the steps of a loop so that each fails by itself: a failure is counted, logged once with its
cause, and repeated after a growing pause. The other steps go on.

Never here: what a step does, and which errors concern all steps: its owner says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from gpuqueue.telemetry import STEP_FAILURES

logger = logging.getLogger(__name__)
T = TypeVar("T")
#: Seconds until the next try of a step that failed. The pause doubles up to the second value.
EARLIEST, LATEST = 1.0, 60.0
#: Seconds until the same failure is logged again.
AGAIN = 600.0
#: Seconds until a step that has failed all the time is :meth:`Steps.trouble`.
LASTING = 60.0
#: Failures that are remembered. A job that failed may never come again.
MOST = 1000
#: The longest cause that is remembered, in characters.
LONGEST = 500


@dataclass(slots=True)
class _Failure:
    cause: str
    since: float
    logged: float
    pause: float
    retry: float


class Steps:
    """Runs steps. Thread-safe.

    A step has a name, which this package gives it; a metric counts by it. ``where`` is a class, and
    ``job`` what a step does for one job.

    Args:
        ends: whether an error concerns all steps alike. Then :meth:`run` raises it.
    """

    def __init__(
        self,
        ends: Callable[[BaseException], bool] = lambda exc: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ends = ends
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[tuple[str, str, str], _Failure] = {}

    def run(
        self, step: str, do: Callable[[], T], default: T, *, where: str = "", job: str = ""
    ) -> T:
        """Return ``do()``; ``default`` if it fails, or in the pause after it has failed."""
        if not self.ready(step, where=where, job=job):
            return default
        try:
            answer = do()
        except Exception as exc:
            self.failed(step, exc, where=where, job=job)
            return default
        self.succeeded(step, where=where, job=job)
        return answer

    def ready(self, step: str, *, where: str = "", job: str = "") -> bool:
        """Return whether the pause of a step is over."""
        known = self._failures.get((step, where, job))
        return known is None or self._clock() >= known.retry

    def failed(self, step: str, exc: Exception, *, where: str = "", job: str = "") -> None:
        """Note a failure. Raises ``exc`` if it concerns all steps."""
        if self._ends(exc):
            raise exc
        STEP_FAILURES.labels(step).inc()
        key, now = (step, where, job), self._clock()
        cause = f"{type(exc).__name__}: {exc}"[:LONGEST]
        with self._lock:
            known = self._failures.pop(key, None) or _Failure("", now, now, EARLIEST, now)
            new = known.cause != cause or now - known.logged >= AGAIN
            known.cause, known.retry = cause, now + known.pause
            known.logged = now if new else known.logged
            known.pause = min(LATEST, known.pause * 2)
            if len(self._failures) >= MOST:
                del self._failures[next(iter(self._failures))]
            self._failures[key] = known
        if new:
            logger.error(
                "%s failed; the other steps go on: %s",
                _named(key),
                cause,
                extra={"action": "step_failed"},
                exc_info=exc,
            )

    def succeeded(self, step: str, *, where: str = "", job: str = "") -> None:
        """Note that a step works."""
        if not self._failures:  # so it is nearly always
            return
        key = (step, where, job)
        with self._lock:
            known = self._failures.pop(key, None)
        if known is not None:
            logger.info(
                "%s works again after %.0f s",
                _named(key),
                self._clock() - known.since,
                extra={"action": "step_recovered"},
            )

    def trouble(self) -> str:
        """Return which step has failed for long, and why; empty if none has. One job that fails is
        no trouble of the process.
        """
        now = self._clock()
        with self._lock:
            for key, known in self._failures.items():
                if not key[2] and now - known.since >= LASTING:
                    return f"{_named(key)} has failed for {now - known.since:.0f} s: {known.cause}"
        return ""


def _named(key: tuple[str, str, str]) -> str:
    step, where, job = key
    return f"step {step!r}" + (f" of {job}" if job else f" of class {where}" if where else "")
