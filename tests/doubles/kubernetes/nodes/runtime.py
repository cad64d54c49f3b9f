"""The container runtime: containers are processes of this machine, each in a session of its own.

There is no mount namespace: what a container writes to its termination message path goes to a file
of its own, whose name stands in its command and its environment instead of that path.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

#: Names a container's folder in the environment of all its processes, so that they can be found
#: again.
_MARK = "DOUBLE_CONTAINER"
_STARTING = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc"
    " create failed: unable to start container process: "
)


class StartError(Exception):
    """A command that cannot be started; the message is the runtime's own."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a container runs. ``annotations`` are the pod's, for a runtime that only acts."""

    command: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    folder: Path
    log: Path
    message: Path
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended: its exit status as the kubelet tells it, and its termination message."""

    code: int
    message: str = ""
    reason: str = ""


class Handle(Protocol):
    """A container that was started. ``oom``: its end is told as that of the memory limit."""

    oom: bool

    def signal(self, number: int) -> None:
        """Signal its first process; SIGKILL goes to all its processes."""

    def pids(self) -> list[int]:
        """Its processes, the first one first."""


OnExit = Callable[[Exit], None]


class Runtime(Protocol):
    """Starts containers. ``quick``: that takes no time, and needs no thread of its own."""

    quick: bool

    def start(self, task: Task, on_exit: OnExit) -> Handle:
        """Start one; ``on_exit`` is called once, from any thread, after all its processes have
        ended.

        Raises:
            StartError: its command cannot be run.
        """

    def close(self) -> None:
        """Kill everything."""


class ProcessHandle:
    """A container as a process and all that came of it."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self._process = process
        self._mark = mark
        self.oom = False

    def signal(self, number: int) -> None:
        """See :class:`Handle`."""
        if number == signal.SIGKILL:
            self.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def kill(self) -> set[int]:
        """End all its processes, those with a session of their own too; answers which they were."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        killed = _marked(self._mark)
        for pid in killed:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return killed

    def pids(self) -> list[int]:
        """See :class:`Handle`."""
        found = _marked(self._mark)
        first = self._process.pid
        return [first, *sorted(found - {first})] if self._process.poll() is None else sorted(found)


class ProcessRuntime:
    """Runs containers as processes. ``path`` is what ``PATH`` is in them: this interpreter's
    folder, then this process's.
    """

    quick = False

    def __init__(self) -> None:
        self.path = os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        )
        self._running: dict[ProcessHandle, threading.Thread] = {}
        self._lock = threading.Lock()
        self._closed = False

    def start(self, task: Task, on_exit: OnExit) -> Handle:
        """See :class:`Runtime`."""
        task.folder.mkdir(parents=True, exist_ok=True)
        task.message.write_bytes(b"")
        env = {"PATH": self.path, "HOME": str(task.folder), **task.env, _MARK: str(task.folder)}
        command = [_program(task.command[0], env["PATH"], task.cwd), *task.command[1:]]
        with self._lock, task.log.open("ab") as output:
            if self._closed:
                raise StartError("the cluster is closed")
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=task.cwd,
                    env=env,
                    start_new_session=True,
                )
            except OSError as error:
                raise StartError(
                    f'{_STARTING}exec: "{task.command[0]}": {(error.strerror or "").lower()}:'
                    " unknown"
                ) from error
            handle = ProcessHandle(process, str(task.folder))
            args = (process, handle, task, on_exit)
            thread = self._running[handle] = threading.Thread(
                target=self._wait, args=args, name="cluster-wait", daemon=True
            )
            thread.start()
        return handle

    def close(self) -> None:
        """See :class:`Runtime`."""
        with self._lock:
            self._closed = True
            running = dict(self._running)
        for handle in running:
            handle.kill()
        for thread in running.values():
            thread.join()

    def _wait(
        self, process: subprocess.Popen[bytes], handle: ProcessHandle, task: Task, on_exit: OnExit
    ) -> None:
        # The first process's end is the end of a container. It is reaped last: until then its
        # group's id is nobody else's.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        killed = handle.kill() - {process.pid}
        code = process.wait()
        until = (
            time.monotonic() + DYING
        )  # SIGKILL takes a moment, and nothing of a container outlives its end
        while any(_runs(pid) for pid in killed) and time.monotonic() < until:
            time.sleep(0.002)
        with self._lock:
            self._running.pop(handle, None)
        reason = "OOMKilled" if handle.oom else ""
        on_exit(Exit(code if code >= 0 else 128 - code, _message(task.message), reason))


#: Seconds that killed processes have to be gone; one that hangs in the kernel must not hold up the
#: others' ends.
DYING = 5.0
#: What a termination message may have at most, in bytes.
MESSAGE_LIMIT = 4096


def _message(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MESSAGE_LIMIT).decode(errors="replace")
    except OSError:
        return ""


def _program(name: str, path: str, cwd: str) -> str:
    if "/" in name:
        where = Path(cwd, name)
        if not where.exists():
            raise StartError(
                f'{_STARTING}exec: "{name}": stat {name}: no such file or directory: unknown'
            )
        if where.is_dir() or not os.access(where, os.X_OK):
            raise StartError(f'{_STARTING}exec: "{name}": permission denied: unknown')
        return str(where)
    found = shutil.which(name, path=path)
    if found is None:
        raise StartError(f'{_STARTING}exec: "{name}": executable file not found in $PATH: unknown')
    return found


def _runs(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _marked(mark: str) -> set[int]:
    """The processes of a container, by the mark in their environment; none where there is no /proc."""
    wanted = f"{_MARK}={mark}".encode()
    found = set()
    for entry in Path("/proc").glob("[0-9]*") if Path("/proc").is_dir() else ():
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in variables:
            found.add(int(entry.name))
    return found
