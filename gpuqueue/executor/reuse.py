"""Go on with another job in the same process, where the application asks for that (``reuse``).

Never here: GPU memory, and all else that the code of a task keeps between two jobs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from gpuqueue.executor.sources import Sources
from gpuqueue.launchers.local.output import last_bytes
from gpuqueue.launchers.local.runtime import Runtime
from gpuqueue.model.executor_env import OF_JOB, RUNTIME, record_variables
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from gpuqueue.store.client import Redis, RedisError, forbidden
from gpuqueue.store.logs import Logs

logger = logging.getLogger("gpuqueue.start")
#: Signals whose handlers a task may have changed.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


class Reuse:
    """Asks for the next job of this process, and makes it that job's process.

    Made before the first job runs: files that change later end the reuse.

    Args:
        environ: the environment of this process, which changes with the job.
        client: of the Redis that has the state.
        host: the name of this host.
        instance: this process, as it has claimed its attempt.
        loads_within: as it has claimed it, too.
        keep: seconds that the log of an ended attempt is kept.
    """

    def __init__(
        self,
        environ: MutableMapping[str, str],
        client: Redis,
        host: str,
        instance: str,
        loads_within: float | None,
        keep: float,
    ) -> None:
        self._environ = environ
        self._logs = Logs(client)
        self._keep = keep
        self._runtime = Runtime(Path(environ[RUNTIME]))
        # HOST:NONCE~MACHINE.START:PID, whose own module needs more than an executor has.
        self._nonce = instance.partition("~")[0].rpartition(":")[2]
        application = environ.get("GPUQUEUE_APP", "")
        settings = self._runtime.path.name
        self._me = WarmInstance(instance, host, host, application, settings, loads_within)
        self._sources = Sources(())
        self._handlers = {each: signal.getsignal(each) for each in _SIGNALS}
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    @staticmethod
    def is_wanted(record: Record, environ: Mapping[str, str]) -> bool:
        """Whether the process of a job may run others."""
        return record.get("reuse", 0) > 1 and RUNTIME in environ

    def take_next(
        self, executor: ExecutorAttempt
    ) -> tuple[ExecutorAttempt, Record, dict[str, Any]] | None:
        """Take the next job, once an attempt has reported; None: there is none for this process,
        which must end. Raises RedisError: a job may be taken, and this process must end, too.
        """
        self._take_signals_back()
        self._sources.add_imported()
        if changed := self._sources.changed():
            logger.info("this process takes no further job: %s has changed", changed)
            return None
        with ExitStack() as stack:
            try:  # before a job is taken: earlier ones may have left no file to open
                output = stack.enter_context(self._runtime.next_output(self._nonce))
                taken = executor.take_next(self._me, reuses=True)
            except (OSError, RedisError) as exc:
                if isinstance(exc, RedisError) and not forbidden(exc):
                    raise
                logger.warning("this process takes no further job: %s", exc)
                return None
            if taken is not None:
                self._become(executor, taken[1], output)
            return taken

    def _take_signals_back(self) -> None:
        """What a task has set must not reach the next one, nor keep it from its own cancel."""
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)

    def _become(self, before: ExecutorAttempt, record: Record, output: int) -> None:
        variables = record_variables(record)
        for name in OF_JOB:
            self._environ.pop(name, None)
        self._environ.update(variables)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        printed = last_bytes(self._runtime.output(self._nonce))
        with _borne("its file names an earlier attempt, until it ends"):
            self._runtime.go_on(self._nonce, variables)
        with _borne("it prints into the log of an earlier attempt"):
            self._runtime.renew_output(self._nonce)
            for descriptor in (1, 2):
                os.dup2(output, descriptor)
        if printed:
            with _borne(f"the log of {before.attempt.holder} is not kept"):
                self._logs.keep(before.attempt, printed, self._keep)
        logger.info("this process goes on with %s", record["delivery"])


@contextmanager
def _borne(consequence: str) -> Iterator[None]:
    """Go on after an error: the job that was taken does not depend on this step."""
    try:
        yield
    except (OSError, ValueError, RedisError) as exc:
        logger.warning("%s: %s", consequence, exc)
