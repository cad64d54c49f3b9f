"""Go on with another job in the same process, where the application asks for that (``reuse``).

Never here: GPU memory, and all else that the code of a task keeps between two jobs.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import MutableMapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gpuqueue.executor.sources import Sources
from gpuqueue.executor.turns import Turns, TurnsInFiles, TurnsInPod
from gpuqueue.model.executor_env import JOBS, NODE, RUNTIME, TURN, UNTIL, become, record_variables
from gpuqueue.model.record import Record
from gpuqueue.model.warm_pod import WARM_POD, WarmPod
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from gpuqueue.store.client import Redis, RedisError
from gpuqueue.store.passing import forbidden

logger = logging.getLogger("gpuqueue.start")
#: Signals whose handlers a task may have changed.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1)
#: Seconds between its questions for a job while none waits: together less than its successor would
#: take to load what this process has loaded.
_PAUSES = (0.005, 0.01, 0.02, 0.04)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


class Reuse:
    """Asks for the next job of this process, and makes it that job's process.

    Made before the first job runs: files that change later end the reuse.

    Args:
        environ: the environment of this process, which changes with the job.
        me: this process, as it has claimed its attempt.
        turns: follow each turn to another job.
        until: when its pod takes no job any more, by ``time.monotonic``.
        jobs: how many more its pod takes.
    """

    def __init__(
        self,
        environ: MutableMapping[str, str],
        me: WarmInstance,
        turns: Turns,
        until: float = math.inf,
        jobs: float = math.inf,
    ) -> None:
        self._environ = environ
        self._me = me
        self._turns = turns
        self._until = until
        self._jobs = jobs
        self._sources = Sources(())
        self._handlers = {each: signal.getsignal(each) for each in _SIGNALS}
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    @classmethod
    def of(
        cls,
        environ: MutableMapping[str, str],
        client: Redis,
        host: str,
        instance: str,
        loads_within: float | None,
        keep: float,
    ) -> Reuse | None:
        """Return that of this process; None: it runs one job.

        Args:
            environ, client: see :class:`TurnsInFiles`.
            host: the name of this host, or pod.
            instance, loads_within: as this process has claimed its attempt.
            keep: seconds that the log of an ended attempt is kept.
        """
        if RUNTIME in environ:
            # HOST:NONCE~MACHINE.START:PID, whose own module needs more than an executor has.
            nonce = instance.partition("~")[0].rpartition(":")[2]
            settings = Path(environ[RUNTIME]).name
            application = environ.get("GPUQUEUE_APP", "")
            me = WarmInstance(instance, host, host, application, settings, loads_within)
            return cls(environ, me, TurnsInFiles(environ, client, nonce, keep))
        pod = WarmPod.parse(environ.get(WARM_POD, ""))
        if pod is None or TURN not in environ:
            return None
        me = WarmInstance(
            *(instance, host, pod.site, pod.application, pod.settings, loads_within),
            node=environ.get(NODE) or None,
            longest=pod.longest,
        )
        until, jobs = (float(environ.get(name, math.inf)) for name in (UNTIL, JOBS))
        return cls(environ, me, TurnsInPod(environ), until, jobs)

    @staticmethod
    def is_wanted(record: Record) -> bool:
        """Whether the process of a job may run others."""
        return record.get("reuse", 0) > 1

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
        if time.monotonic() >= self._until or self._jobs <= 0:
            return None
        self._jobs -= 1
        with ExitStack() as stack:
            try:  # before a job is taken: earlier ones may have left no file to open
                stack.enter_context(self._turns.ready())
                taken = executor.take_next(self._me, reuses=True, pauses=_PAUSES)
            except (OSError, RedisError) as exc:
                if isinstance(exc, RedisError) and not forbidden(exc):
                    raise
                logger.warning("this process takes no further job: %s", exc)
                return None
            if taken is not None:
                self._become(executor, taken[1])
            return taken

    def _take_signals_back(self) -> None:
        """What a task has set must not reach the next one, nor keep it from its own cancel."""
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)

    def _become(self, before: ExecutorAttempt, record: Record) -> None:
        variables = record_variables(record)
        become(self._environ, variables)
        self._turns.turn(before.attempt, variables)
        logger.info("this process goes on with %s", record["delivery"])
