"""Detect the exit of processes: one thread waits on all pidfds (Linux), or polls elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable

import psutil

logger = logging.getLogger(__name__)
#: Seconds between polls on systems without pidfds.
POLL = 0.05


class Exits:
    """Calls back with the exit status of each watched process; None if it is not our child."""

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
        """Call ``callback(status)`` from the watching thread after the exit of a process."""
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
        """End the thread. The processes continue."""
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
                self._report(pid, callback)
            for pid in [pid for pid in list(self._polled) if not _runs(pid)]:
                self._report(pid, self._polled.pop(pid))

    def _report(self, pid: int, callback: Callable[[int | None], None]) -> None:
        code = _end_group(pid)
        if _group_is_gone(pid):
            _call(callback, code, pid)
        else:  # a process that the kernel cannot kill yet must not delay other ends
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
    """Kill the rest of the group of an ended process, then reap it and return its exit status.

    As in a container, nothing outlives the first process. The group is killed first, since the pid
    of a child cannot be reused before it is reaped. The pid of another's child is safe if no
    process has it: the system does not reuse a pid that still names a group.
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
    return bool(psutil.pid_exists(pid))  # another process has the pid by now
