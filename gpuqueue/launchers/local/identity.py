"""The identity of a process: what no later process can have.

Never here: the environment or the title of a process, which the process itself can change.

A pid alone is given again. A process is known by its machine (boot id and PID namespace), its pid
and its start time. An instance of an attempt is ``host:nonce~machine.start:pid``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

#: The states of /proc/PID/stat of a process that has ended: zombie, dead.
_ENDED = b"ZX"
_LONGEST_STAT = 4096


@dataclass(frozen=True, slots=True)
class Process:
    """One process of one machine.

    ``machine`` is the boot id and the PID namespace; ``start`` its start time, in the unit of the
    system.
    """

    machine: str
    pid: int
    start: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the process that has a pid here; None if none has it, or it has ended."""
        start = start_of(pid)
        return cls(machine(), pid, start) if start else None

    @property
    def is_here(self) -> bool:
        """Whether this machine can tell if the process runs."""
        return self.machine == machine()

    @property
    def runs(self) -> bool:
        """Whether the process still runs. Only for a process of this machine."""
        return start_of(self.pid) == self.start

    def signal(self, name: str) -> bool:
        """Send a signal to the process; ``KILL`` goes to its whole group. Returns False if it has
        ended.
        """
        number = signal.Signals[f"SIG{name}"]
        opened = getattr(os, "pidfd_open", None)
        try:
            pidfd = opened(self.pid) if opened else -1
        except ProcessLookupError:
            return False
        try:
            if not self.runs:  # checked with the pidfd open: it names this very process
                return False
            if opened:
                signal.pidfd_send_signal(pidfd, number)
            else:
                os.kill(self.pid, number)
            if number == signal.SIGKILL:
                os.killpg(self.pid, number)
        except ProcessLookupError:
            return number == signal.SIGKILL
        finally:
            if pidfd >= 0:
                os.close(pidfd)
        return True


@dataclass(frozen=True, slots=True)
class Instance:
    """What runs an attempt: a process, named by its launcher before it started."""

    host: str
    nonce: str
    process: Process

    def __str__(self) -> str:
        process = self.process
        return f"{self.host}:{self.nonce}~{process.machine}.{process.start}:{process.pid}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an instance. Raises ValueError for another text, also for one of a dispatcher
        without runners: see :mod:`.earlier`.
        """
        head, _, pid = text.rpartition(":")
        named, _, identity = head.partition("~")
        host, _, nonce = named.rpartition(":")
        at, _, start = identity.rpartition(".")
        if not (host and nonce and at and start and pid.isdecimal()):
            raise ValueError(f"instance={text!r} is not HOST:NONCE~MACHINE.START:PID")
        return cls(host, nonce, Process(at, int(pid), start))


def start_of(pid: int) -> str:
    """Return when a process started, in ticks since boot; empty if it does not run."""
    try:
        with open(f"/proc/{pid}/stat", "rb", 0) as file:  # noqa: PTH123 - called at each start
            stat = file.read(_LONGEST_STAT)
    except OSError:
        return "" if Path("/proc/self/stat").exists() else _start_elsewhere(pid)
    # The name of the program, in parentheses, may hold any character.
    fields = stat.rpartition(b")")[2].split()
    return "" if fields[0] in _ENDED else fields[19].decode()


def _start_elsewhere(pid: int) -> str:
    """The same on a system without /proc."""
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return str(int(process.create_time() * 1000))
    return ""


@cache
def machine() -> str:
    """Return the boot id and the PID namespace: pids of one value can be compared."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        return f"{boot[:16]}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return f"{socket.gethostname()}.0"
