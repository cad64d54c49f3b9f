"""Ends the executors and runners of an embedded Redis that is about to stop: no dispatcher would
find them.

``python -m gpuqueue.dev.sweep URL`` waits for the end of its standard input, which also comes when
the owner is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import psutil

from gpuqueue.launchers.local import runtime
from gpuqueue.launchers.local.listing import Listing
from gpuqueue.model.executor_env import VARIABLES

#: The module that a runner runs.
RUNNER = "gpuqueue.runner"
#: Seconds between SIGTERM and SIGKILL: time for an executor to leave its task.
GRACE = 3.0
#: Seconds until an executor that a dying dispatcher was just starting shows its environment.
SETTLE = 0.3


def executors(url: str, base: Path) -> dict[int, bool]:
    """Return the executors of a Redis and their descendants: pid → whether it is an executor.

    Args:
        url: the address of the Redis.
        base: the directory of the runtime directories.
    """
    own = {each.process.pid for each in Listing(base, url).instances() if each.process.runs}
    found = dict.fromkeys(own, True)
    for pid in psutil.pids():
        env = _environment(pid)
        if (
            pid not in (os.getpid(), *own)
            and env.get("GPUQUEUE_REDIS_URL") == url
            and VARIABLES["delivery"] in env
        ):
            found[pid] = False
    return found


def _environment(pid: int) -> dict[str, str]:
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            found: dict[str, str] = process.environ()
            return found
    return {}


def end_runners(url: str, within: float) -> None:
    """Tell the runners of a Redis, whose attempts have ended, to end; kill them after a time."""
    runners = []
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if RUNNER in process.cmdline() and _environment(pid).get("GPUQUEUE_REDIS_URL") == url:
                process.terminate()
                runners.append(process)
    for process in psutil.wait_procs(runners, timeout=within)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()


def sweep(url: str, grace: float = GRACE) -> int:
    """End all executors of a Redis: SIGTERM, then SIGKILL after ``grace`` seconds; then its
    runners.

    Returns how many executors there were.
    """
    base = runtime.base()
    seen: set[int] = set()
    deadline = time.monotonic() + grace
    clean_since: float | None = None
    while clean_since is None or time.monotonic() - clean_since < SETTLE:
        found = executors(url, base)
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
    end_runners(url, grace)
    return len(seen)


def main() -> int:
    """Wait for the end of standard input, then sweep."""
    sys.stdin.buffer.read()
    sweep(sys.argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
