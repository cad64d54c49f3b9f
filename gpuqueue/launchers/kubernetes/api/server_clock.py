"""The clock of the API server, by the time that each of its answers names.

What the API says has happened is timed by it: compared with another clock, a wait would end early
or late by what the two differ.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Mapping

#: Seconds by which an answer may lag behind the best one so far: a Date has whole seconds, and an
#: answer takes its time. Beyond that, the clock was set back.
LAG = 3.0


class ServerClock:
    """Thread-safe: an answer of another thread is as good."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._offset: float | None = None

    def answered(self, headers: Mapping[str, str]) -> None:
        """Take the time of an answer that has just come. ``headers`` ignore case (urllib3)."""
        at = unix(headers.get("Date", ""))
        if at is None:
            return
        offset, known = at - self._clock(), self._offset
        if known is None or not known - LAG <= offset <= known:
            self._offset = offset

    def now(self) -> float | None:
        """Return its time in Unix seconds; None: no answer has told it."""
        offset = self._offset
        return None if offset is None else self._clock() + offset


def unix(date: str) -> float | None:
    """Return a date of HTTP in Unix seconds; None if it is none."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
