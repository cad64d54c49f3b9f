"""What the processes of one attempt print in a pod: copied to the output of the pod, its end kept.

Only a pod that may run several jobs needs it: else the log of the pod is that of its attempt.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue

#: Bytes of one read.
_READ = 1 << 16
#: Bytes of a turn: far above the variables of an attempt.
_LONGEST_TURN = 1 << 16
#: Seconds in which what was printed is copied, once all processes of the attempt have ended.
_COPIED_WITHIN = 5.0


class PodOutput:
    """The output of one process. Made before its executor is forked.

    Args:
        kept: how many bytes of its end are kept.
        mark: what marks a turn to another job (see executor/turns.py).
    """

    def __init__(self, kept: int, mark: str) -> None:
        self._kept = kept
        self._turn = re.compile(rb"\x00" + mark.encode() + rb" (\{[^\x00]*\})\x00")
        self._begin = b"\0" + mark.encode()
        self._end = b""
        self._turns: SimpleQueue[tuple[bytes, dict[str, str]]] = SimpleQueue()
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

    def turns(self) -> Iterator[tuple[bytes, dict[str, str]]]:
        """Yield the turns since the last call: the end of what was printed before it, and the
        variables of the attempt that follows.
        """
        with suppress(Empty):
            while True:
                yield self._turns.get_nowait()

    def close(self) -> bytes | None:
        """Return the end of what was printed; None: something still prints."""
        self._thread.join(_COPIED_WITHIN)
        if self._thread.is_alive():
            return None
        os.close(self._read)
        return self._end

    def _copy(self) -> None:
        held = b""
        while data := os.read(self._read, _READ):
            held += data
            while turn := self._turn.search(held):
                variables = _variables(turn[1])
                self._pass_on(held[: turn.end() if variables is None else turn.start()])
                if variables is not None:
                    self._turns.put((self._end, variables))
                    self._end = b""
                held = held[turn.end() :]
            whole = self._without_begun_turn(held)
            self._pass_on(held[:whole])
            held = held[whole:]
        self._pass_on(held)

    def _without_begun_turn(self, held: bytes) -> int:
        """Return up to where no turn has begun whose end is still to come."""
        begun = held.rfind(b"\0")
        if begun < 0 or len(held) - begun > _LONGEST_TURN:
            return len(held)
        rest = held[begun:]
        same = rest.startswith(self._begin) or self._begin.startswith(rest)
        return begun if same else len(held)

    def _pass_on(self, data: bytes) -> None:
        self._end = (self._end + data)[-self._kept :] if self._kept else b""
        while data:
            data = data[os.write(1, data) :]


def _variables(text: bytes) -> dict[str, str] | None:
    """Parse the variables of a turn; None: a job has printed what looks like one."""
    with suppress(ValueError):
        found = json.loads(text)
        if all(isinstance(each, str) for each in found.values()):
            return dict(found)
    return None
