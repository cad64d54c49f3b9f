"""The forked process of one attempt: it becomes what a fresh process would be, and runs the
executor. None of its errors returns to the runner.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from gpuqueue.launchers.local.runtime import ROOM
from gpuqueue.runner.descendants import children

#: What a spawned executor runs. It needs no runner: see :mod:`gpuqueue.runner.pod`.
ALONE = "--alone"
SPAWNED = (sys.executable, "-m", "gpuqueue.executor", ALONE)
#: ``prctl``: descendants whose parent dies become children of this process.
SUBREAPER = 36
#: ``oom_score_adj`` of an attempt: the kernel must end it before the runner, whose score is 0.
OOM_SCORE = 500
#: Not paths: each object that a new process makes for one costs it a copied page of memory.
_OOM_SCORE, _STAT, _LONGEST_STAT = "/proc/self/oom_score_adj", "/proc/self/stat", 4096
#: Exit status of an error before the executor (EX_SOFTWARE).
EXIT_BEFORE = 70
_LIBC = ctypes.CDLL(None)
#: Signals that a runner waits for, or passes on.
SIGNALS = frozenset(
    (
        *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
        *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD),
    )
)
#: Those that the runner, or the application in it, may handle, and what a fresh process does.
_HANDLERS: Mapping[signal.Signals, Any] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGCHLD: signal.SIG_DFL,
}


def fork(run: Callable[[], object], *, close: Iterable[int] = (), output: int | None = None) -> int:
    """Fork, and run a function in the new process as a fresh process would; return its pid.

    Args:
        run: the executor.
        close: descriptors of the runner.
        output: where standard output and error go. None: the executor is the only one of its
            runner, and shares its output, its orphans and its fate when the memory is used up.
    """
    # No signal may reach a handler of the runner in the new process.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        pid = os.fork()
        if not pid:
            _become(run, close, output)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _become(run: Callable[[], object], close: Iterable[int], output: int | None) -> NoReturn:
    code: object = EXIT_BEFORE
    try:
        for each in close:
            # By number: the objects that own them stay, and must not close them again.
            os.close(each)
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number, handler in _HANDLERS.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if output is not None:
            _part(output)
        _forget()
        run()
        code = os.EX_OK
    except SystemExit as exc:
        code = exc.code
    except BaseException:
        traceback.print_exc()
    leave(code)


def _part(output: int) -> None:
    """Have an output, orphans and a fate that the runner and its other executors do not share."""
    adopt_orphans()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    with contextlib.suppress(OSError), open(_OOM_SCORE, "wb", 0) as score:  # noqa: PTH123
        score.write(b"%d" % OOM_SCORE)


def adopt_orphans() -> None:
    """Make this process the parent of each descendant whose own parent dies (Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(SUBREAPER, 1, 0, 0, 0)


def show_environment(variables: Mapping[str, str]) -> None:
    """Write variables where the system shows the environment of this process (Linux), as those of a
    process that was started with them: dispatchers without runners and ``ps e`` look there. The
    program itself does not.
    """
    size = len(os.environ.pop(ROOM, ""))  # no pointer to it is left
    text = "\0".join(f"{name}={value}" for name, value in variables.items()).encode()
    if not size or len(text) > size:
        return
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(_STAT, "rb", 0) as stat:  # noqa: PTH123
            fields = stat.read(_LONGEST_STAT).rpartition(b")")[2].split()
        begin, end = int(fields[47]), int(fields[48])
        shown = ctypes.string_at(begin, end - begin)
        at = shown.index(f"{ROOM}=".encode())
        whole = len(ROOM) + 1 + size
        rest = f"\0{ROOM}=".encode()
        written = (text + rest).ljust(whole, b" ")[:whole]
        ctypes.memmove(begin + at, written, whole)


def reap(pid: int) -> int:
    """Return how a forked process ended, which has ended: its exit code, or -N for signal N."""
    if not children():  # unlike its descendants, its group is known here
        # It goes first: the pid of a child is not given again before it is reaped.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def leave(code: object) -> NoReturn:
    """End as the interpreter would, without taking the inherited objects apart: that would copy
    the pages of the runner.
    """
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _forget() -> None:
    """Drop what a fresh process would not have. redis-py and logging see a fork themselves."""
    for name in ("billiard.util", "multiprocessing.util"):
        if (forkers := sys.modules.get(name)) is not None:
            forkers._run_after_forkers()
    if (module := sys.modules.get("multiprocessing.resource_tracker")) is not None:
        tracker = module._resource_tracker
        if tracker._fd is not None:
            os.close(tracker._fd)
            tracker._fd = tracker._pid = None
    if (random := sys.modules.get("numpy.random")) is not None:
        random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        with contextlib.suppress(Exception):
            torch.seed()
    gc.enable()
