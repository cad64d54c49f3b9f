"""Attempts that a dispatcher without runners has started, for the time of an upgrade.

Their instance is ``host:nonce:pid``. The nonce is in the environment of the process, too.
"""

from __future__ import annotations

import contextlib
import os
import signal

import psutil

from gpuqueue.model.executor_env import INSTANCE


def host_of(instance: str) -> str:
    """Return the host of an instance."""
    return instance.partition(":")[0]


def runs(instance: str) -> bool:
    """Whether the process of an instance of this host still runs."""
    named, _, pid = instance.rpartition(":")
    with contextlib.suppress(psutil.Error, OSError, ValueError):
        process = psutil.Process(int(pid))
        if process.status() != psutil.STATUS_ZOMBIE:
            return bool(process.environ().get(INSTANCE) == named)
    return False


def send_signal(instance: str, name: str) -> None:
    """Send a signal to a process that runs; ``KILL`` goes to its whole group."""
    pid, number = int(instance.rpartition(":")[2]), signal.Signals[f"SIG{name}"]
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if number == signal.SIGKILL else os.kill)(pid, number)
