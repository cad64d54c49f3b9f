"""The executor: a one-shot Celery worker. It claims its attempt, runs one message under Celery's
tracer, and exits.

Its environment: GPUQUEUE_APP (the argument of ``celery -A``), GPUQUEUE_JOB_ID, GPUQUEUE_TOKEN, and
from the launcher GPUQUEUE_DELIVERY, GPUQUEUE_GPU_CLASS, GPUQUEUE_ATTEMPT, GPUQUEUE_INSTANCE; in a
pod also GPUQUEUE_POD (its name) and GPUQUEUE_POD_UID. GPUQUEUE_LAYOUT, if set, is the layout of the
dispatcher (keys.py) and must match. CELERY_BROKER_URL is the broker; GPUQUEUE_REDIS_URL (the state
of the queue) and CELERY_RESULT_BACKEND default to it. The executor needs celery and redis only, and
no GPU library; it writes no file and needs no home directory.

Exit status:
    0: reported.
    71: the task left no file descriptor to reach Redis with.
    72: the application cannot be loaded; nothing is written, and the job waits until it can.
    75: Redis could not be reached, or failed a command.
    76: the attempt belongs to another process.
    77: the GPU failed; nothing is written, and another attempt follows.
    78: the environment is incomplete, wrong, or for another version; or Redis refuses the user or
    fails to prove its identity.
    143: asked to stop.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, MutableMapping
from types import FrameType
from typing import NoReturn

from gpuqueue.errors import SettingsError
from gpuqueue.executor import application, streams
from gpuqueue.executor.leaving import end_within, grace_of, leave_at_once
from gpuqueue.executor.process import Executor
from gpuqueue.model.ends import EXIT_CONFIG, EXIT_DEVICE, EXIT_OK, EXIT_TERMINATED
from gpuqueue.model.executor_env import FINISHER


def main(environ: MutableMapping[str, str] = os.environ) -> int:
    """Run the attempt, or the finish, that the environment names; return the exit status."""
    executor = Executor(environ)
    if finisher := environ.get(FINISHER):
        return executor.finish(finisher)
    return executor.main()


def _on_term(number: int, frame: FrameType | None) -> NoReturn:
    raise application.Stopped(EXIT_TERMINATED)


def run(do: Callable[[], int] = main) -> NoReturn:
    """Run the executor: the entry point. This process ends within its grace, however it went.
    ``do`` returns the exit status.
    """
    streams.forgive()
    signal.signal(signal.SIGTERM, _on_term)  # process 1 ignores signals without a handler
    code = 1
    try:
        code = do()
    except SettingsError as exc:
        sys.stderr.write(f"gpuqueue: {exc}\n")
        code = EXIT_CONFIG
    except application.Stopped as stopped:
        code = int(stopped.code or EXIT_OK)
        if code == EXIT_DEVICE:  # the clean-up may hang on a failed GPU
            leave_at_once(code)
    finally:
        end_within(grace_of(os.environ), code)
    sys.exit(code)
