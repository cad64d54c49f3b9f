"""What a process prints while it runs several jobs: each has its own log.

Where a machine has a runner, each job has a file. In a pod, the runner copies what is printed, and
is told of each turn between the lines.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from gpuqueue.launchers.local.output import last_bytes
from gpuqueue.launchers.local.output_file import noted
from gpuqueue.launchers.local.runtime import Runtime
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.executor_env import INSTANCE, RUNTIME, TURN, WHOLE_LOGS
from gpuqueue.store.client import Redis, RedisError
from gpuqueue.store.logs import Logs
from gpuqueue.store.whole_logs import WholeLogNotes

logger = logging.getLogger("gpuqueue.start")


class Turns(Protocol):
    """What follows the turn to another job."""

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Prepare a turn, before a job is taken. Raises OSError."""
        ...

    def turn(self, before: Attempt, variables: Mapping[str, str]) -> None:
        """Turn to the job of the variables. It is taken: no error may come of it."""
        ...


class TurnsInFiles:
    """The turns of a process of a runner of local mode.

    Args:
        environ: of the process.
        client: of the Redis that has the state.
        nonce: names the process.
        keep: seconds that the log of an ended attempt is kept.
    """

    def __init__(self, environ: Mapping[str, str], client: Redis, nonce: str, keep: float) -> None:
        self._runtime = Runtime(Path(environ[RUNTIME]))
        self._logs = Logs(client)
        self._nonce = nonce
        self._keep = keep
        self._output = -1
        # HOST:NONCE~MACHINE.START:PID
        self._machine = environ.get(INSTANCE, "").rpartition("~")[2].rpartition(".")[0]
        self._whole = WholeLogNotes(client, keep) if environ.get(WHOLE_LOGS) else None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Open the file of the next job: earlier ones may have left no file to open."""
        with self._runtime.next_output(self._nonce) as self._output:
            yield

    def turn(self, before: Attempt, variables: Mapping[str, str]) -> None:
        """Print into the file of the next job, and keep the end of the last one's."""
        flush()
        printed = last_bytes(self._runtime.output(self._nonce))
        if self._whole is not None:
            with _borne(f"the whole log of {before.holder} is not kept"):
                path = self._runtime.whole_output(self._nonce)
                self._whole.due(before, noted(self._machine, path))
        with _borne("its file names an earlier attempt, until it ends"):
            self._runtime.go_on(self._nonce, dict(variables))
        with _borne("it prints into the log of an earlier attempt"):
            self._runtime.renew_output(self._nonce)
            for descriptor in (1, 2):
                os.dup2(self._output, descriptor)
        if printed:
            with _borne(f"the log of {before.holder} is not kept"):
                self._logs.keep(before, printed, self._keep)


class TurnsInPod:
    """The turns of a process in a pod that runs several jobs (see runner/pod_output.py)."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._mark = environ[TURN]

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Nothing: the runner has all that it takes."""
        yield

    def turn(self, before: Attempt, variables: Mapping[str, str]) -> None:
        """Tell the runner."""
        flush()
        with _borne("its log is that of an earlier attempt, too"):
            os.write(1, turn_text(self._mark, variables))


def turn_text(mark: str, variables: Mapping[str, str]) -> bytes:
    """Return what tells a runner of a turn. No text that is printed has it: ``mark`` is secret."""
    return f"\0{mark} {json.dumps(dict(variables))}\0".encode()


def flush() -> None:
    """Print what the process has printed so far."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


@contextmanager
def _borne(consequence: str) -> Iterator[None]:
    """Go on after an error: the job that was taken does not depend on this step."""
    try:
        yield
    except (OSError, ValueError, RedisError) as exc:
        logger.warning("%s: %s", consequence, exc)
