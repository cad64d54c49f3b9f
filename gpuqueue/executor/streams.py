"""The output of this process, as the code of a task writes it."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from typing import Any


def forgive() -> None:
    """Have no ``print`` of a task fail, as on a worker of Celery, whose output is its log: what a
    full disk does not take is lost, and what has no form in the encoding is escaped.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # An application may have put something else in its place.
        is_own = isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__")
        if is_own and not stream.closed:
            with suppress(OSError):
                stream.flush()
            setattr(sys, name, _forgiving(stream))


def _forgiving(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    file = _File(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        # As Python does with -u.
        file if stream.write_through else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _File(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)
