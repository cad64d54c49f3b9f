"""Find and end what an attempt leaves behind: processes in other sessions and groups, with other
parents and environments.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

#: Seconds that a resource tracker gets to remove the shared memory that its process left.
TRACKER_GRACE = 1.0
#: Seconds between two looks at what an ended attempt left: at first, and after :data:`SLOW`
#: seconds.
SOON, SLOWLY, SLOW = 0.002, 0.1, 0.5


class Strays:
    """The children of this process that no attempt has: their own parents have ended.

    Each attempt adopts its orphans while it lives (see :func:`child.adopt_orphans`), so that a
    child of the runner without an attempt is of one that has ended.

    Args:
        kept: children that are none. None: those of now, which the application itself started when
            it was imported.
    """

    def __init__(self, kept: Collection[int] | None = None) -> None:
        self._known = set(children() if kept is None else kept)
        self._since: dict[int, float] = {}
        self._of: dict[int, set[str]] = {}

    def end(self, living: set[int], over: Collection[str]) -> set[str]:
        """Kill and reap the strays beside the ``living`` attempts. Returns those of the attempts
        that are ``over`` of which a process may be left.

        What dies may leave children, too, so it looks again until nothing new dies.
        """
        while True:
            found = [pid for pid in children() if pid not in living and pid not in self._known]
            for pid in found:
                self._of.setdefault(pid, set(over))
                since = self._since.setdefault(pid, time.monotonic())
                if not (is_tracker(pid) and time.monotonic() - since < TRACKER_GRACE):
                    _kill(pid)
            dead = [pid for pid in found if _reaped(pid)]
            for pid in dead:
                del self._since[pid], self._of[pid]
            if not dead:
                return set().union(*self._of.values())


def pause(since: float) -> float:
    """Return the seconds until the next look at what is left, ``since`` seconds after the end of
    an attempt.
    """
    return SOON if since < SLOW else SLOWLY


def children() -> list[int]:
    """Return the children of this process, ended ones included; none where the system does not
    list them.
    """
    try:
        return [
            int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_bytes().split()
        ]
    except OSError:  # no /proc, or a kernel without CONFIG_PROC_CHILDREN
        return []


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def is_tracker(pid: int) -> bool:
    """Whether a process is a resource tracker of :mod:`multiprocessing`."""
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
