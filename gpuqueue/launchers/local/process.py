"""One executor process: its environment, start, signals, and whether it still runs.

Never here: which processes exist (see ``launcher``) and how they end (see ``exits``).

The environment of a process describes its attempt, like the labels and annotations of a pod, so
that a later dispatcher finds it. An instance is ``host:nonce:pid``. The nonce is in the environment
too, and proves that a pid is still the same process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from gpuqueue.model.executor_env import INSTANCE, OF_ATTEMPT


def spawn(command: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process in its own session, with these variables in addition to ours."""
    inherited = {key: value for key, value in os.environ.items() if key not in OF_ATTEMPT}
    return subprocess.Popen(
        command,
        env={**inherited, **variables, "GPUQUEUE_STARTER": str(os.getpid())},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def environment(pid: int) -> dict[str, Any]:
    """Return the environment of a process; {} if it is gone, a zombie, or of another user."""
    try:
        process = psutil.Process(pid)
        return {} if process.status() == psutil.STATUS_ZOMBIE else process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return {}


def host_of(instance: str) -> str:
    """Return the host of an instance."""
    return instance.partition(":")[0]


def pid_of(instance: str) -> int:
    """Return the pid of an instance."""
    return int(instance.rpartition(":")[2])


def is_running(instance: str) -> bool:
    """Whether the process of an instance of this host still runs."""
    return environment(pid_of(instance)).get(INSTANCE) == instance.rpartition(":")[0]


def send_signal(pid: int, name: str) -> None:
    """Send a signal (``TERM``) to a process; ``KILL`` goes to its whole group."""
    number = signal.Signals[f"SIG{name}"]
    with contextlib.suppress(ProcessLookupError):
        if number == signal.SIGKILL:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)


def is_orphan(pid: int) -> bool:
    """Whether the dispatcher that started a process is gone."""
    starter = environment(pid).get("GPUQUEUE_STARTER")
    if not starter:
        return False
    try:
        return bool(psutil.Process(pid).ppid() != int(starter))
    except psutil.NoSuchProcess:
        return False


def leads_session(pid: int) -> bool:
    """Whether a process leads its session, as executors do and children of tasks do not."""
    try:
        return os.getsid(pid) == pid
    except (ProcessLookupError, PermissionError):
        return False
