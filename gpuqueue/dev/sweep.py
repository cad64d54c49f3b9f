"""End the executors whose Redis is about to vanish: with an embedded Redis no dispatcher will ever
look after them again.

``python -m gpuqueue.dev.sweep URL`` waits until its standard input ends, which it does also when
the owner was killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

import psutil

from gpuqueue.launchers.local.process import environment
from gpuqueue.model.executor_env import VARIABLES

#: Between SIGTERM and SIGKILL, in seconds: time for an executor to leave its task.
GRACE = 3.0
#: An executor that a dying dispatcher was just starting shows its environment within this many
#: seconds.
SETTLE = 0.3


def executors(url: str) -> dict[int, bool]:
    """Return the processes of executors of a Redis, and of what their tasks started: pid → whether
    it is the executor.
    """
    found = {}
    for pid in psutil.pids():
        env = environment(pid)
        if (
            pid != os.getpid()
            and env.get("GPUQUEUE_REDIS_URL") == url
            and VARIABLES["delivery"] in env
        ):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                found[pid] = os.getsid(pid) == pid
    return found


def sweep(url: str, grace: float = GRACE) -> int:
    """End all executors of a Redis: SIGTERM, then SIGKILL after ``grace`` seconds. Answers how many
    there were.
    """
    seen: set[int] = set()
    deadline = time.monotonic() + grace
    clean_since: float | None = None
    while clean_since is None or time.monotonic() - clean_since < SETTLE:
        found = executors(url)
        late = time.monotonic() > deadline
        for pid, leads in found.items():
            # What a task started gets no SIGTERM from us: its executor is asked first, as a
            # cancelled job's is.
            if late or (leads and pid not in seen):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        seen |= {pid for pid, leads in found.items() if leads}
        clean_since = None if found else clean_since or time.monotonic()
        if time.monotonic() > deadline + grace:
            break  # a process in an uninterruptible wait: the kernel ends it when it can
        time.sleep(0.05)
    return len(seen)


def main() -> int:
    """Wait for the end of standard input, then sweep."""
    sys.stdin.buffer.read()
    sweep(sys.argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
