"""The lines of a log whose lines have their times before them. Pure."""

from __future__ import annotations

from datetime import datetime

from gpuqueue.cli.logs.seam import lines_of


def written_since(text: str, moment: float, after: str) -> str:
    """Return the lines written from a time on (Unix seconds), without their times.

    A line that has ``after`` is the last before them, even if the clocks differ. A line without a
    time belongs to the one before it.
    """
    found: list[str] = []
    for line in lines_of(text):
        stamp, _, rest = line.partition(" ")
        at = _seconds(stamp)
        if after in line:
            found, moment = [], 0.0
        elif at is None:
            found += [line] if found else []
        elif found or at >= moment:  # a clock that is set back hides nothing
            found.append(rest)
    return "".join(found)


def _seconds(stamp: str) -> float | None:
    try:
        at = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return at.timestamp() if at.tzinfo else None
