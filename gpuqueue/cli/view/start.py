"""The words for the range of a start."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gpuqueue.cli.view.render import duration


def start_range(start: dict[str, Any], now: float) -> str:
    """Format when a job starts. ``now`` is the time of Redis, in Unix seconds."""
    first, last = start["earliest"], start["latest"]
    if first is None:
        return f"not known: {start['unknown']}"
    if last is None:
        return f"later than {_clock(first, now)} (in {duration(first)})"
    between = f"between {_clock(first, now)} and {_clock(last, now)}"
    return f"{between} (in {duration(first)} to {duration(last)}; {start['holds']:.0%} of starts)"


def _clock(seconds: float, now: float) -> str:
    """Format a time of day on this machine; with the date, unless it is today."""
    then, today = (datetime.fromtimestamp(when, UTC).astimezone() for when in (now + seconds, now))
    form = "%H:%M:%S" if seconds < 60 else "%H:%M"
    return then.strftime(form if then.date() == today.date() else f"%Y-%m-%d {form}")
