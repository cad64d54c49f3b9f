"""What the processes of one attempt print in a pod: copied to the output of the pod, its end kept.

Only a pod that may run several jobs needs it: else the log of the pod is that of its attempt.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

#: Bytes of one read.
_READ = 1 << 16
#: Seconds in which what was printed is copied, once all processes of the attempt have ended.
_COPIED_WITHIN = 5.0


class PodOutput:
    """The output of one attempt. Made before its executor is forked.

    Args:
        kept: how many bytes of its end are kept.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._end = b""
        self._read, self._write = os.pipe()
        self._thread = threading.Thread(target=self._copy, name="gpuqueue-output", daemon=True)

    def into(self, run: Callable[[], object]) -> object:
        """Run a function, in the process of the executor, which prints into it."""
        os.close(self._read)
        for descriptor in (1, 2):
            os.dup2(self._write, descriptor)
        os.close(self._write)
        return run()

    def follow(self) -> None:
        """Copy what is printed from now on: the executor is forked, since a thread must not be."""
        os.close(self._write)
        self._thread.start()

    def close(self) -> bytes | None:
        """Return the end of what was printed; None: something still prints."""
        self._thread.join(_COPIED_WITHIN)
        if self._thread.is_alive():
            return None
        os.close(self._read)
        return self._end

    def _copy(self) -> None:
        while data := os.read(self._read, _READ):
            self._end = (self._end + data)[-self._kept :] if self._kept else b""
            while data:
                data = data[os.write(1, data) :]
