"""The name of this process, and whether another process has ended for certain.

A name has the host, the boot of its kernel, the PID namespace, the PID and the start time: no two
processes share it. Without ``/proc`` no process is known to have ended.
"""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

_PROC = Path("/proc")
#: Field of /proc/PID/stat with the start time, counted after the name of the program.
_START = 19


def process_name() -> str:
    """Return the name of this process."""
    pid = os.getpid()
    place, start = _place(), _started(pid)
    return " ".join((socket.gethostname(), place or "-", str(pid), start or secrets.token_hex(4)))


def has_ended(process: str) -> bool:
    """Return whether a process has ended for certain: it ran beside this one, and runs no more."""
    try:
        _, place, pid, start = process.split(" ")
        if place == "-" or place != _place():
            return False
        return _started(int(pid)) not in (start, None)
    except ValueError:
        return False


def _place() -> str:
    """Return where PIDs have one meaning; empty if unknown."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Return when a process started, in ticks of the kernel; empty: there is none; None: unknown.

    A process that has ended and was not reaped yet counts as none.
    """
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return "" if (_PROC / "self/stat").exists() else None
    except OSError:
        return None
    # The name of the program, in parentheses, may hold any bytes.
    fields = stat.rpartition(b")")[2].split()
    return "" if fields[0] in (b"Z", b"X") else fields[_START].decode()
