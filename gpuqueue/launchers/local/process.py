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

from gpuqueue.model.record import Record

_PREFIX = "GPUQUEUE_"
#: Record fields in the environment, in addition to job ID and token.
_FIELDS = (
    "delivery",
    "gpu_class",
    "isolation",
    "attempt",
    "device",
    "time_limit",
    "task",
    "tenant",
    "retries",
    "nesting",
)
_NUMBERS = {"attempt": int, "device": int, "time_limit": float, "retries": int, "nesting": int}
#: Variables of an attempt. A dispatcher that runs within a job must not pass on its own.
_OF_AN_ATTEMPT = {_PREFIX + name.upper() for name in _FIELDS} | {
    "GPUQUEUE_JOB_ID",
    "GPUQUEUE_TOKEN",
    "GPUQUEUE_INSTANCE",
    "GPUQUEUE_FINISHER",
    "GPUQUEUE_POD",
    "GPUQUEUE_POD_UID",
    "GPUQUEUE_NODE",
}


def record_variables(record: Record) -> dict[str, str]:
    """Return the environment variables that describe an attempt."""
    fields = {_PREFIX + name.upper(): str(record[name]) for name in _FIELDS if name in record}  # type: ignore[literal-required]
    return {
        **fields,
        "GPUQUEUE_JOB_ID": record["id"],
        "GPUQUEUE_TOKEN": record.get("token", ""),
    }


def parse_record(env: Mapping[str, str]) -> Record:
    """Parse the record from the environment of an executor. Raises KeyError or ValueError."""
    record: Any = {
        name: env[_PREFIX + name.upper()] for name in _FIELDS if _PREFIX + name.upper() in env
    }
    record |= {name: convert(record[name]) for name, convert in _NUMBERS.items() if name in record}
    record |= {"id": env["GPUQUEUE_JOB_ID"], "token": env["GPUQUEUE_TOKEN"]}
    return record  # type: ignore[no-any-return]


def spawn(command: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process in its own session, with these variables in addition to ours."""
    inherited = {key: value for key, value in os.environ.items() if key not in _OF_AN_ATTEMPT}
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
    return environment(pid_of(instance)).get("GPUQUEUE_INSTANCE") == instance.rpartition(":")[0]


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
