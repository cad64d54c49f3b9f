"""Shows what attempts print in the output of their dispatcher, each line with its attempt.

Never here: an attempt that waits for a reader. It writes to a file.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpuqueue.launchers.local.output_file import read_on

#: Seconds between two looks.
LOOK = 0.2
#: Bytes of an attempt's output that are kept in Redis.
KEPT_BYTES = 16_384
#: The most bytes of one attempt that are shown at once; the rest is left out.
MOST = 1 << 18


@dataclass(slots=True)
class _Followed:
    path: Path
    name: str
    at: int = 0
    ended: bool = False
    file: int = 0
    """The number of the file that is shown; 0: none yet."""


def to_stderr(data: bytes) -> None:
    """Write to the standard error of this process."""
    while data:
        data = data[os.write(2, data) :]


class Output:
    """Follows the files of running attempts, in a thread.

    Args:
        write: takes the text. It may block: then later lines are left out.
        name_of: names the attempt that the process of a nonce has gone on to.
    """

    def __init__(
        self,
        write: Callable[[bytes], None] = to_stderr,
        name_of: Callable[[str], str] = lambda nonce: "",
    ) -> None:
        self._write = write
        self._name_of = name_of
        self._followed: dict[str, _Followed] = {}
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="gpuqueue-output", daemon=True)
        self._thread.start()

    def follow(self, nonce: str, name: str, path: Path) -> None:
        """Show what an attempt prints from now on."""
        self._followed[nonce] = _Followed(path, name)
        self._wake.set()

    def ended(self, nonce: str) -> None:
        """An attempt has ended: show the rest of its output."""
        if (followed := self._followed.get(nonce)) is not None:
            followed.ended = True
            self._wake.set()

    def close(self) -> None:
        """Show what there is, and no more."""
        self._closed = True
        self._wake.set()
        self._thread.join(LOOK * 5)

    def _run(self) -> None:
        while True:
            last = self._closed
            self._wake.clear()
            for nonce, followed in list(self._followed.items()):
                ended = followed.ended
                with contextlib.suppress(Exception):  # its file is gone, or our reader is
                    self._show(followed, whole=ended)
                if ended:
                    self._followed.pop(nonce, None)
            if last:
                return
            self._wake.wait(LOOK if self._followed else None)

    def _show(self, followed: _Followed, *, whole: bool) -> None:
        found = followed.path.stat()
        if followed.file and found.st_ino != followed.file:  # of the next attempt of its process
            earlier = followed.path.with_name(f"{followed.path.name}.1")
            with contextlib.suppress(OSError):
                if earlier.stat().st_ino == followed.file:
                    self._show_file(followed, earlier, earlier.stat().st_size, whole=True)
            followed.at, followed.name = 0, self._name_of(followed.path.name) or followed.name
        followed.file = found.st_ino
        self._show_file(followed, followed.path, found.st_size, whole=whole)

    def _show_file(self, followed: _Followed, path: Path, size: int, *, whole: bool) -> None:
        if size == followed.at:
            return
        left_out = max(0, size - followed.at - MOST)
        part = read_on(path, followed.at + left_out, MOST)
        data, left_out = part.data, left_out + part.left_out
        lines = data.split(b"\n")
        rest = lines.pop()
        if rest and (whole or not lines):
            lines.append(rest)
            rest = b""
        followed.at = part.at - len(rest)
        if left_out:
            lines.insert(0, f"({left_out} bytes left out)".encode())
        prefix = f"{followed.name} | ".encode()
        self._write(b"".join(prefix + line + b"\n" for line in lines))


def last_bytes(path: Path) -> str:
    """Return the end of an output, from the begin of a line; "" if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - KEPT_BYTES))
            data = file.read(KEPT_BYTES)
    except OSError:
        return ""
    if size > len(data):
        data = data.partition(b"\n")[2] or data
    return data.decode(errors="replace")
