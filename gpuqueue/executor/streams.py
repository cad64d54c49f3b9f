"""The output of this process, as the code of a task writes it."""

from __future__ import annotations

import io
import os
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


def fill() -> None:
    """Have no file or connection be standard input, output or error: code of the application may
    have closed these, as a daemon does, and what is printed would go there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):  # as the lowest that is free
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


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
