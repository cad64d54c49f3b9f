"""Reads the output of a process of this machine from the file that it writes."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from pathlib import Path

from gpuqueue.errors import SettingsError
from gpuqueue.launchers.local.identity import Instance
from gpuqueue.launchers.local.output_file import Part, begin, left_out, read_on
from gpuqueue.launchers.local.runtime import all_of, base
from gpuqueue.model.record import Record

#: The most bytes that are read from the end of a file.
LARGEST = 1 << 24
#: Seconds between two looks for more.
LOOK = 0.1


def read(record: Record, tail: int) -> str:
    """Return the last lines of an attempt's output; "" if its file is not on this machine."""
    found = _output(record)
    return "" if found is None else _last_lines(found[1], tail)[0]


def follow(record: Record, tail: int) -> Iterator[str]:
    """Yield the output of a process until it has ended; nothing if its file is not here."""
    found = _output(record)
    if found is None:
        return
    instance, path = found
    text_of = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    number = 0
    while _number(path) != number:
        number = _number(path)
        text, at = _last_lines(path, tail)
    yield text
    while True:
        ended = not (instance.process.is_here and instance.process.runs)
        if _number(path) != number:  # its process has gone on to another attempt
            ended, path = True, path.with_name(f"{path.name}.1")
            if _number(path) != number:
                return
        part = _read_on(path, at)
        at = part.at
        if part.left_out:
            yield left_out(part.left_out).decode()
        if part.data:
            yield text_of(part.data)
        elif ended:
            return
        else:
            time.sleep(LOOK)


def is_elsewhere(record: Record) -> bool:
    """Whether the output of a process cannot be read here."""
    return _output(record) is None


def _read_on(path: Path, at: int) -> Part:
    try:
        return read_on(path, at, LARGEST)
    except FileNotFoundError:
        return Part(b"", at, 0)


def _number(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def _output(record: Record) -> tuple[Instance, Path] | None:
    if record.get("warm_last"):  # its process has gone on: the file is of another attempt
        return None
    try:
        instance = Instance.parse(record.get("instance", ""))
        for runtime in all_of(base()):
            if (path := runtime.output(instance.nonce)).exists():
                return instance, path
    except (ValueError, SettingsError):
        pass  # of a dispatcher without runners, or no directory is here
    return None


def _last_lines(path: Path, tail: int) -> tuple[str, int]:
    """Return the last lines of a file, and where they end."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = file.seek(max(begin(path), size - LARGEST, 0))
        # Up to where the next part begins: more may have been written.
        lines = file.read(size - start).decode(errors="replace").splitlines(keepends=True)
    return "".join(lines[-tail:]).lstrip("\0"), size
