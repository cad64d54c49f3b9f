"""Join the streams of one log: each begins some lines back, and what was shown is not shown again.
Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

#: Lines that are remembered, and that a stream goes back at most: what a job writes while a
#: connection is made anew.
LINES = 1000


class Seam:
    """What was shown of a log, at its end.

    Args:
        tail: lines that its first stream began with.

    Attributes:
        lost: whether the newest stream began beyond what was shown: lines between are missing.
    """

    def __init__(self, tail: int) -> None:
        self._least = min(tail, LINES)
        self._shown: deque[str] = deque(maxlen=LINES)
        self.lost = False

    @property
    def tail(self) -> int:
        """Lines that the next stream is to begin with. It begins within what was shown, unless more
        was written since.
        """
        return max(len(self._shown), self._least)

    def join(self, parts: Iterable[str]) -> Iterator[str]:
        """Yield what was not shown before of a stream's parts, as soon as it is known, and remember
        it as shown.
        """
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
    """The first lines of a stream, until it is known where among the lines shown they stand."""

    def __init__(self, shown: Sequence[str]) -> None:
        self._shown = shown
        self._places = list(
            range(len(shown))
        )  # where in `shown` the stream may begin; the first hides the most
        self._lines: list[str] = []
        self._half = ""
        self.over = False
        self.lost = False

    def unseen(self, part: str) -> str:
        """Take a part; answers what of all parts was not shown once that is known, else ""."""
        lines = lines_of(self._half + part)
        self._half = lines.pop() if lines and not lines[-1].endswith("\n") else ""
        for number, line in enumerate(lines, 1):
            text = self._take(line)
            if text is not None:
                self.over = True
                return text + "".join(lines[number:]) + self._half
        return ""

    def unseen_at_end(self) -> str:
        """The stream has ended, maybe without a line's end; answers what was not shown."""
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
        half = self._lines[known - 1].removeprefix(
            shown[-1]
        )  # more of a line that was shown in part
        return half + "".join(self._lines[known:])


def _goes_on(shown: str, line: str) -> bool:
    return line == shown or (not shown.endswith("\n") and line.startswith(shown))


def lines_of(text: str) -> list[str]:
    """Cut a text after each line feed, and nowhere else: a bar of progress is one line, however
    often it returns.
    """
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])
