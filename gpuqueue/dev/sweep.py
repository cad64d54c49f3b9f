"""Ends the executors of an embedded Redis that is about to stop: no dispatcher would find them.

``python -m gpuqueue.dev.sweep URL`` waits for the end of its standard input, which also comes when
the owner is killed.
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

#: Seconds between SIGTERM and SIGKILL: time for an executor to leave its task.
GRACE = 3.0
#: Seconds until an executor that a dying dispatcher was just starting shows its environment.
SETTLE = 0.3


def executors(url: str) -> dict[int, bool]:
    """Return the executors of a Redis and their descendants: pid → whether it is an executor."""
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
    """End all executors of a Redis: SIGTERM, then SIGKILL after ``grace`` seconds.

    Returns how many there were.
    """
    seen: set[int] = set()
    deadline = time.monotonic() + grace
    clean_since: float | None = None
    while clean_since is None or time.monotonic() - clean_since < SETTLE:
        found = executors(url)
        late = time.monotonic() > deadline
        for pid, leads in found.items():
            # Descendants get no SIGTERM: their executor ends them, as for a cancelled job.
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
