"""Joins the streams of one log. Each begins some lines back; no line is shown twice. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

#: The most lines that are remembered, and that a stream goes back: the output of a job during a
#: reconnection.
LINES = 1000


class Seam:
    """The end of a log as shown so far.

    Args:
        tail: the number of lines that the first stream began with.

    Attributes:
        lost: whether lines are missing between the part shown and the newest stream.
    """

    def __init__(self, tail: int) -> None:
        self._least = min(tail, LINES)
        self._shown: deque[str] = deque(maxlen=LINES)
        self.lost = False

    @property
    def tail(self) -> int:
        """How many lines the next stream must go back to overlap the part shown."""
        return max(len(self._shown), self._least)

    def join(self, parts: Iterable[str]) -> Iterator[str]:
        """Yield the new text of a stream's parts, as soon as it is known to be new."""
        self.lost = False
        begin = _Beginning(list(self._shown)) if self._shown else None
        for part in parts:
            text = part if begin is None else begin.unseen(part)
            if begin is not None and begin.over:
                self.lost = begin.lost
                begin = None
            if text:
                self._remember(text)
                yield text
        if begin is not None and (text := begin.unseen_at_end()):
            self._remember(text)
            yield text

    def _remember(self, text: str) -> None:
        lines = lines_of(text)
        if self._shown and not self._shown[-1].endswith("\n"):
            lines[0] = self._shown.pop() + lines[0]
        self._shown.extend(lines)


class _Beginning:
    """The first lines of a stream, until their place among the lines shown is known."""

    def __init__(self, shown: Sequence[str]) -> None:
        self._shown = shown
        # Where in `shown` the stream may begin. The first place hides the most.
        self._places = list(range(len(shown)))
        self._lines: list[str] = []
        self._half = ""
        self.over = False
        self.lost = False

    def unseen(self, part: str) -> str:
        """Take a part. Return the new text of all parts once that is known, else ""."""
        lines = lines_of(self._half + part)
        self._half = lines.pop() if lines and not lines[-1].endswith("\n") else ""
        for number, line in enumerate(lines, 1):
            text = self._take(line)
            if text is not None:
                self.over = True
                return text + "".join(lines[number:]) + self._half
        return ""

    def unseen_at_end(self) -> str:
        """Return the new text of a stream that ended, possibly within a line."""
        text = self._take(self._half) if self._half else ""
        return "" if text is None or self.lost else text

    def _take(self, line: str) -> str | None:
        shown, at = self._shown, len(self._lines)
        self._lines.append(line)
        self._places = [
            place
            for place in self._places
            if place + at >= len(shown) or _goes_on(shown[place + at], line)
        ]
        if not self._places:
            self.lost = True
            return ("" if shown[-1].endswith("\n") else "\n") + "".join(self._lines)
        known = len(shown) - self._places[0]
        if known > len(self._lines):
            return None
        # The rest of a line that was shown in part.
        half = self._lines[known - 1].removeprefix(shown[-1])
        return half + "".join(self._lines[known:])


def _goes_on(shown: str, line: str) -> bool:
    return line == shown or (not shown.endswith("\n") and line.startswith(shown))


def lines_of(text: str) -> list[str]:
    """Split a text after each line feed only: a progress bar with carriage returns is one line."""
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])
