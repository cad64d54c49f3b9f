"""End the processes that an attempt left, where no runner that is their ancestor lives."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def end_marked(nonce: str, session: int = -2) -> bool:
    """Kill the processes of an attempt that were no descendants of this process: those that carry
    its name in their environment, or are in the ``session`` that it led. Returns whether there were
    any.
    """
    mark, found = f":{nonce}~".encode(), False
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        if pid == os.getpid() or not (_carries(pid, mark) or _session(pid) == session):
            continue
        _kill(pid)
        found = True
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _carries(pid: int, mark: bytes) -> bool:
    try:
        return b"GPUQUEUE_INSTANCE=" in (env := Path(f"/proc/{pid}/environ").read_bytes()) and (
            mark in env
        )
    except OSError:
        return False


def _session(pid: int) -> int:
    """Return the session of a process that runs; -1 for another."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return -1
    return -1 if stat[0] in (b"Z", b"X") else int(stat[3])
