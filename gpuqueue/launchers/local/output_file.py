"""The file of an attempt's output: bounded, while its process appends to it.

Once a file is long, its beginning is given up: Linux frees the blocks of that part, and the rest
stays where it is. So no byte is lost between a copy and a cut, and a reader goes on at its offset.
Where the file system cannot do that, the file is copied to ``NAME.rotated`` and begins again.

Never here: whose attempt a file is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Modes of fallocate(2): free the blocks, and keep the length.
_PUNCH_HOLE = 0x02 | 0x01
#: What is given up is a multiple of this: a page, and a block of most file systems.
_BLOCK = 4096
#: Bytes of one read of a whole output.
_CHUNK = 1 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)


class Part(NamedTuple):
    """What follows an offset: ``left_out`` bytes that are gone, ``data``, and the next offset."""

    data: bytes
    at: int
    left_out: int


def bound(path: Path, most: int) -> None:
    """Give up the beginning of a file whose length is more than twice ``most`` bytes; at least the
    last ``most`` stay. Raises OSError.
    """
    if path.stat().st_size <= 2 * most:
        return
    with path.open("r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size - _begin(file.fileno()) <= 2 * most:
            return
        if _punch(file.fileno(), (size - most) // _BLOCK * _BLOCK):
            return
    new = path.with_name(f"{path.name}.rotating")
    shutil.copyfile(path, new)
    with path.open("rb") as file, new.open("ab") as copy:
        while True:  # what was written meanwhile
            file.seek(copy.tell())
            if not (data := file.read(_CHUNK)):
                break
            copy.write(data)
            copy.flush()
    new.rename(rotated(path))
    os.truncate(path, 0)


def rotated(path: Path) -> Path:
    """Return the file of the earlier part of an output, where there is one."""
    return path.with_name(f"{path.name}.rotated")


def begin(path: Path) -> int:
    """Return the offset at which what is kept begins. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return _begin(file.fileno())


def read_on(path: Path, at: int, most: int) -> Part:
    """Return up to ``most`` bytes from an offset on. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size < at:  # it has begun again
            with contextlib.suppress(FileNotFoundError), rotated(path).open("rb") as earlier:
                earlier.seek(at)
                if data := earlier.read(most):
                    return Part(data, at + len(data), 0)
            at = 0
        came_from = at
        while True:
            data = os.pread(file.fileno(), most, at)
            kept = _begin(file.fileno())
            if kept <= at:
                # Blocks may be larger than what was given up of the first.
                bare = data.lstrip(b"\0") if at > came_from else data
                gone = at - came_from + len(data) - len(bare)
                return Part(bare, at + len(data), gone)
            at = kept


def whole(path: Path) -> Iterator[bytes]:
    """Yield all that is kept of an output, and first, where its beginning is gone, how much.
    Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError), rotated(path).open("rb") as earlier:
        while data := earlier.read(_CHUNK):
            yield data
    at = 0
    while True:
        part = read_on(path, at, _CHUNK)
        if part.left_out:
            yield left_out(part.left_out)
        if not part.data:
            return
        yield part.data
        at = part.at


def noted(machine: str, path: Path) -> dict[str, str]:
    """Return what names an output for every dispatcher. ``machine`` as in :mod:`.identity`."""
    return {"machine": machine, "path": str(path)}


def left_out(count: int) -> bytes:
    """Return the line that stands for bytes that are gone."""
    return f"({count} bytes left out)\n".encode()


def _begin(descriptor: int) -> int:
    """Return where the first data of an open file is; 0 where that cannot be told."""
    try:
        return os.lseek(descriptor, 0, os.SEEK_DATA)
    except (OSError, AttributeError):
        return 0


def _punch(descriptor: int, length: int) -> bool:
    """Free the first bytes of a file; return False if the file system cannot."""
    if length <= 0 or not hasattr(_LIBC, "fallocate"):
        return False
    size = ctypes.c_int64
    done: int = _LIBC.fallocate(descriptor, _PUNCH_HOLE, size(0), size(length))
    return done == 0
