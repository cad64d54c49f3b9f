"""Detect the exit of processes: one thread waits on all pidfds (Linux), or polls elsewhere.

No process keeps the end of another one from being reported: each report fails by itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import psutil

from gpuqueue.steps import Steps

logger = logging.getLogger(__name__)
#: Seconds between polls: on systems without pidfds, and of the groups of ended processes.
POLL = 0.05
#: How often the report of an end may fail. Then the watcher's repair finds the end.
TRIES = 5


@dataclass(slots=True)
class _Ended:
    """A process that has ended, until its end is reported."""

    pid: int
    callback: Callable[[int | None], None]
    reaped: bool = False
    code: int | None = None
    failures: int = 0


class Exits:
    """Calls back with the exit status of each watched process; None if it is not our child."""

    def __init__(self) -> None:
        self._steps = Steps()
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._polled: dict[int, Callable[[int | None], None]] = {}
        self._ended: list[_Ended] = []
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="gpuqueue-exits", daemon=True)
        self._thread.start()

    def watch(self, pid: int, callback: Callable[[int | None], None]) -> None:
        """Call ``callback(status)`` from the watching thread after the exit of a process. A
        callback that raises is called again.
        """
        opened = getattr(os, "pidfd_open", None)
        if opened is None:
            with self._lock:
                self._polled[pid] = callback
        else:
            try:
                fd = opened(pid)
            except ProcessLookupError:
                with self._lock:
                    self._ended.append(_Ended(pid, callback))
            else:
                with self._lock:
                    self._selector.register(fd, selectors.EVENT_READ, (pid, callback))
        self._wake()

    def close(self) -> None:
        """End the thread. The processes continue."""
        self._closed = True
        self._wake()
        self._thread.join(5)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: the thread wakes in any case
            os.write(self._wake_write, b".")

    def _run(self) -> None:
        while not self._closed:
            if not self._steps.run("exits", self._turn, False):
                time.sleep(POLL)

    def _turn(self) -> bool:
        self._wait()
        with self._lock:
            ended, self._ended = self._ended, []
        left = [each for each in ended if not self._report(each)]
        with self._lock:
            self._ended += left
        return True

    def _wait(self) -> None:
        """Wait for ends, and take them into the list of ended processes."""
        waits = POLL if self._polled or self._ended else None
        for key, _ in self._selector.select(waits):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                continue
            with self._lock:
                self._selector.unregister(key.fileobj)
                self._ended.append(_Ended(*key.data))
            os.close(key.fd)
        for pid in list(self._polled):
            if not self._steps.run("exit", partial(_runs, pid), True, job=f"process {pid}"):
                with self._lock:
                    self._ended.append(_Ended(pid, self._polled.pop(pid)))

    def _report(self, ended: _Ended) -> bool:
        """Report an end; return whether nothing is left to do for it."""
        job = f"process {ended.pid}"
        if not self._steps.ready("exit", job=job):
            return False
        try:
            if not ended.reaped:
                ended.code = _end_group(ended.pid)
                ended.reaped = True
            if not _group_is_gone(ended.pid):
                return False  # the kernel cannot kill it yet
            ended.callback(ended.code)
        except Exception as exc:
            self._steps.failed("exit", exc, job=job)
            ended.failures += 1
            if ended.failures < TRIES:
                return False
            logger.error(
                "the end of process %s was not handled; the watcher repairs it",
                ended.pid,
                extra={"action": "exit_lost"},
            )
            return True
        self._steps.succeeded("exit", job=job)
        return True


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
