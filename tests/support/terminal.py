"""A command in a terminal: what it shows, its keys, its size."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

_SEQUENCES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[()][0-9A-B]|[=>])")
#: Where a full screen is painted from.
_HOME = "\x1b[H"
#: What shows the cursor, and the screen that was there before.
RESTORED = "\x1b[?25h\x1b[?1049l"


class Terminal:
    """Runs a command in a pseudo terminal; a context manager, which ends the command."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], width: int = 80, height: int = 30
    ) -> None:
        self._mine, theirs = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(self._mine)
        self._output = b""
        self.process = subprocess.Popen(
            command,
            env={**env, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
        )
        self._theirs = theirs
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._theirs)  # the reader ends
        self._reader.join(10)
        os.close(self._mine)

    def _read(self) -> None:
        while True:
            try:
                more = os.read(self._mine, 65_536)
            except OSError:
                return
            self._output += more

    def resize(self, width: int, height: int) -> None:
        self._size = width, height
        fcntl.ioctl(self._mine, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._mine, keys.encode())

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def output(self) -> str:
        """All that was written, with its control sequences."""
        return self._output.decode(errors="replace")

    @property
    def frame(self) -> list[str]:
        """The lines of the newest whole screen of the present size; none: there is none yet."""
        for painted in reversed(self.output.split(_HOME)):
            lines = _SEQUENCES.sub("", painted).replace("\r", "").split("\n")
            if (len(lines[-1]), len(lines)) == self._size:
                return [line.rstrip() for line in lines]
        return []

    def shows(self, text: str) -> bool:
        return any(text in line for line in self.frame)

    @property
    def settings(self) -> list[Any]:
        """The settings of the terminal, as the command has left them."""
        return termios.tcgetattr(self._mine)
