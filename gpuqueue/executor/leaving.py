"""End this process in time, with anything that the task left behind: threads, handlers of
``atexit``, children that the interpreter waits for.
"""

from __future__ import annotations

import _thread
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NoReturn

from gpuqueue.store.attempts import GRACE

#: Seconds that the interpreter gets in any case: an ordinary end takes less.
SHORTEST = 1.0
#: Seconds that the tombstone of a job stays, unless the dispatcher sets it.
KEEP = 86_400.0
#: Seconds that the log and the streams get: the task may have left them locked or full.
FLUSH = 1.0
#: The exit status of the end that is under way.
_watched: list[int] = []
#: Not a logger of Celery (as in main.py).
logger = logging.getLogger("gpuqueue.start")


def grace_of(environ: Mapping[str, str]) -> float:
    """Return the seconds that this process gets to end by itself."""
    with suppress(ValueError):
        return max(SHORTEST, float(environ.get("GPUQUEUE_GRACE_SECONDS", GRACE)))
    return GRACE


def keep_of(environ: Mapping[str, str]) -> float:
    """Return the seconds that the tombstone of a job stays."""
    return float(environ.get("GPUQUEUE_TOMBSTONE_SECONDS", KEEP))


def end_within(seconds: float, code: int) -> None:
    """End this process with an exit status in ``seconds``, unless it has ended by then. The first
    call counts.
    """
    if _watched:
        return
    _watched.append(code)

    def watch() -> None:
        time.sleep(seconds)
        leave_at_once(code, f"this process did not end within {seconds:g} s after its work")

    try:
        # Not of threading: that would wait for its begin.
        _thread.start_new_thread(watch, ())
    except RuntimeError as exc:  # the task has used up the threads, and may keep them
        leave_at_once(code, f"this process leaves at once: {exc}")


@contextmanager
def copies_end() -> Iterator[None]:
    """Run code of the application: a process that it forks, and that comes out of it, ends here.
    The outcome is that of this process alone.
    """
    own = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != own:
            _end_copy(sys.exc_info()[1])


def _end_copy(exc: BaseException | None) -> NoReturn:
    code: object = 0 if exc is None else 1
    if isinstance(exc, SystemExit):
        code = exc.code
    elif exc is not None:
        traceback.print_exception(exc)
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    leave_at_once(
        code & 0xFF if isinstance(code, int) else int(code is not None),
        f"process {os.getpid()}, which the application has forked, came out of its code",
    )


def leave_at_once(code: int, why: str = "") -> NoReturn:
    """End without the clean-up of the interpreter, which may hang, or crash and hide the exit
    status. ``why`` is logged.
    """
    try:
        said = _thread.allocate_lock()
        said.acquire()
        _thread.start_new_thread(_last_words, (why, said))
        said.acquire(timeout=FLUSH)
    finally:  # also without a thread for the last words, or the memory for one
        os._exit(code)


def _last_words(why: str, said: _thread.LockType) -> None:
    with suppress(BaseException):
        _say(why)
    said.release()


def _say(why: str) -> None:
    if why:
        left = [
            each.name
            for each in threading.enumerate()
            if not each.daemon and each is not threading.main_thread()
        ]
        named = f"; threads that still run: {', '.join(left)}" if left else ""
        logger.warning("%s: ended%s", why, named)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
