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
from pathlib import Path
from typing import Any, NoReturn

#: ``prctl``: descendants whose parent dies become children of this process.
SUBREAPER = 36
#: ``oom_score_adj`` of an attempt: the kernel must end it before the runner, whose score is 0.
OOM_SCORE = 500
#: Exit status of an error before the executor (EX_SOFTWARE).
EXIT_BEFORE = 70
#: Signals that the runner handles, and a fresh process does not.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def become(
    run: Callable[[], object],
    *,
    environ: Mapping[str, str],
    close: Iterable[int],
    output: int | None = None,
) -> NoReturn:
    """Run a function as a fresh process of an attempt would; never returns.

    Args:
        run: the executor. It ends by SystemExit.
        environ: the whole environment of the attempt.
        close: descriptors of the runner.
        output: where standard output and error go; None: where those of the runner go.
    """
    code: object = EXIT_BEFORE
    try:
        for each in close:
            # By number: the objects that own them stay, and must not close them again.
            os.close(each)
        os.setsid()
        adopt_orphans()
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        if output is not None:
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
        _set_environment(environ)
        _forget()
        run()
    except SystemExit as exc:
        code = exc.code
    except BaseException:
        traceback.print_exc()
    leave(code)


def adopt_orphans() -> None:
    """Make this process the parent of each descendant whose own parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


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


def _set_environment(environ: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:  # each assignment takes memory that is never freed
            os.environ[name] = value


def _forget() -> None:
    """Drop what a fresh process would not have. redis-py and logging see a fork themselves."""
    from multiprocessing import resource_tracker, util

    from billiard import util as billiard_util

    for each in (billiard_util, util):
        forkers: Any = each
        forkers._run_after_forkers()
    tracker: Any = resource_tracker._resource_tracker
    if tracker._fd is not None:
        os.close(tracker._fd)
        tracker._fd = tracker._pid = None
    if (random := sys.modules.get("numpy.random")) is not None:
        random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        with contextlib.suppress(Exception):
            torch.seed()
    gc.enable()
