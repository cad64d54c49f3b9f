"""The runtime that runs containers as processes of this machine, each in a separate session.

There is no mount namespace. Each container has its own file for the termination message, and its
command and environment name this file in place of the termination message path.
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
from pathlib import Path

from tests.doubles.kubernetes.nodes.runtime import Exit, Handle, OnExit, StartError, Task

#: The variable with the folder of the container, in the environment of all its processes: it finds
#: them again.
_MARK = "DOUBLE_CONTAINER"
#: Seconds that killed processes have to be gone. A process that hangs in the kernel must not block
#: the ends of the others.
DYING = 5.0
#: The size limit of a termination message in bytes.
MESSAGE_LIMIT = 4096
_STARTING = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc"
    " create failed: unable to start container process: "
)


class ProcessHandle:
    """A container as a process and its descendants."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self._process = process
        self._mark = mark
        self.oom = False

    def signal(self, number: int) -> None:
        """Signal the first process; SIGKILL goes to all processes."""
        if number == signal.SIGKILL:
            self.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def kill(self) -> set[int]:
        """Kill all processes, also those in other sessions; returns them."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        killed = _marked(self._mark)
        for pid in killed:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return killed

    def pids(self) -> list[int]:
        """Return the processes, the first one first."""
        marked = _marked(self._mark)
        first = self._process.pid
        return sorted(marked) if self._ended() else [first, *sorted(marked - {first})]

    def _ended(self) -> bool:
        """Whether the first process has ended. The thread that waits for it must reap it."""
        if self._process.returncode is not None:
            return True
        try:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self._process.pid, options) is not None
        except ChildProcessError:
            return True


class ProcessRuntime:
    """Runs containers as processes. ``path`` is their ``PATH``: the folder of this interpreter,
    then the ``PATH`` of this process.
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
        """Start a container; see :meth:`Runtime.start`."""
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
        """Kill all containers."""
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
        # A container ends with its first process. Reap that process last: until then no other
        # process group can get its id.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        killed = handle.kill() - {process.pid}
        code = process.wait()
        # SIGKILL takes a moment, and no process may outlive its container.
        until = time.monotonic() + DYING
        while any(_runs(pid) for pid in killed) and time.monotonic() < until:
            time.sleep(0.002)
        with self._lock:
            self._running.pop(handle, None)
        reason = "OOMKilled" if handle.oom else ""
        on_exit(Exit(code if code >= 0 else 128 - code, _message(task.message), reason))


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
    """Whether a process has not ended. A process that is not reaped yet has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _marked(mark: str) -> set[int]:
    """Return the processes of a container by the mark in their environment; none without /proc."""
    wanted = f"{_MARK}={mark}".encode()
    marked = set()
    for entry in Path("/proc").glob("[0-9]*") if Path("/proc").is_dir() else ():
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in variables:
            marked.add(int(entry.name))
    return marked
