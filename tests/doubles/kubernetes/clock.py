"""The clock of all machines of the cluster: that of this one, unless a test shifts it.

A process has one, as its clusters run on one machine.
"""

from __future__ import annotations

import time

_ahead = 0.0


def now() -> float:
    """Return the time in Unix seconds."""
    return time.time() + _ahead


def shift(seconds: float) -> None:
    """Put the clock ahead of this machine's by so many seconds, or behind it; 0: as it is."""
    global _ahead
    _ahead = seconds
