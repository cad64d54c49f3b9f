"""See processes end, by event: one thread over all their pidfds (Linux), or a short poll elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

logger = logging.getLogger(__name__)
#: Seconds between looks where the system has no pidfds.
POLL = 0.05


class Exits:
    """Calls back with the exit status of each watched process; None for one that is no child of
    ours.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._polled: dict[int, Callable[[int | None], None]] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="gpuqueue-exits", daemon=True)
        self._thread.start()

    def watch(self, pid: int, callback: Callable[[int | None], None]) -> None:
        """Call ``callback(status)`` once the process has ended, from the watching thread."""
        opened = getattr(os, "pidfd_open", None)
        if opened is None:
            with self._lock:
                self._polled[pid] = callback
        else:
            try:
                fd = opened(pid)
            except ProcessLookupError:
                threading.Thread(target=callback, args=(None,), daemon=True).start()
                return
            with self._lock:
                self._selector.register(fd, selectors.EVENT_READ, (pid, callback))
        os.write(self._wake_write, b".")

    def close(self) -> None:
        """End the thread; the processes go on."""
        self._closed = True
        os.write(self._wake_write, b".")
        self._thread.join(5)

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(POLL if self._polled else None):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                    continue
                pid, callback = key.data
                with self._lock:
                    self._selector.unregister(key.fileobj)
                os.close(key.fd)
                self._tell(pid, callback)
            for pid in [pid for pid in list(self._polled) if not _runs(pid)]:
                self._tell(pid, self._polled.pop(pid))

    def _tell(self, pid: int, callback: Callable[[int | None], None]) -> None:
        code = _end_group(pid)
        if _group_is_gone(pid):
            _call(callback, code, pid)
        else:  # a process that the kernel cannot kill yet must not hold up the others' ends
            threading.Thread(
                target=_call_when_gone,
                args=(callback, code, pid),
                name="gpuqueue-group",
                daemon=True,
            ).start()


def _call(callback: Callable[[int | None], None], code: int | None, pid: int) -> None:
    try:
        callback(code)
    except Exception:
        logger.exception(
            "the end of process %s was not handled", pid, extra={"action": "exit_lost"}
        )


def _call_when_gone(callback: Callable[[int | None], None], code: int | None, pid: int) -> None:
    while not _group_is_gone(pid):
        time.sleep(POLL)
    _call(callback, code, pid)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end_group(pid: int) -> int | None:
    """Kill what an ended process left in its group (as in a container, nothing outlives the first
    process), then reap it.

    The group goes first: until a child is reaped nobody else can have its id. Of a process that is
    not ours to reap the id is safe when no process has it: the system does not give away an id that
    still names a group.
    """
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        if not psutil.pid_exists(pid):
            _kill_group(pid)
        return None
    _kill_group(pid)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _group_is_gone(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except (ProcessLookupError, PermissionError):
        return True
    return bool(psutil.pid_exists(pid))  # the id is another's by now


def environment(pid: int) -> dict[str, Any]:
    """Return a process's environment; empty when it is gone, a zombie, or not ours to read."""
    try:
        process = psutil.Process(pid)
        return {} if process.status() == psutil.STATUS_ZOMBIE else process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return {}
