"""The next job of a pod: what its runner asks Redis for, once an executor has ended.

Never here: processes (see :mod:`gpuqueue.runner.pod`), and the reuse of one
(:mod:`gpuqueue.executor.reuse`).
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import time
from collections.abc import Mapping
from types import FrameType
from typing import NoReturn

from gpuqueue.executor.process import Executor
from gpuqueue.model.ends import EXIT_OK, EXIT_STALE
from gpuqueue.model.executor_env import JOBS, NODE, TURN, UNTIL, VARIABLES
from gpuqueue.model.warm_pod import GOES_ON, WARM_POD, WarmPod
from gpuqueue.store.client import RedisError
from gpuqueue.store.passing import describe

logger = logging.getLogger("gpuqueue.start")
#: Seconds after which a pod that waits looks, though it was not woken.
LOOK = 2.0
#: Signals that end a pod that waits.
_ENDING = (signal.SIGTERM, signal.SIGINT)


class Warm:
    """A pod that may run other jobs after its own. For one thread.

    Args:
        pod: what its launcher told it.
        executor: of its first attempt.
        began: when the pod started, by ``time.monotonic``.
    """

    def __init__(self, pod: WarmPod, executor: Executor, began: float) -> None:
        self._pod = pod
        self._executor = executor
        self._until = began + pod.age
        self._first = executor.holder
        self._jobs = 1
        self.stopped_by = ""
        """The signal that has ended the pod, if one came between two jobs."""
        self._mark = secrets.token_hex(16)
        os.environ[TURN], os.environ[UNTIL] = self._mark, str(self._until)
        os.environ[JOBS] = str(pod.jobs - 1)

    @classmethod
    def of(cls, executor: Executor, began: float) -> Warm | None:
        """Return the pod of this process; None: it runs one job."""
        pod = WarmPod.parse(os.environ[WARM_POD]) if os.environ.get(WARM_POD) else None
        return cls(pod, executor, began) if pod else None

    @property
    def log_bytes(self) -> int:
        """How many bytes of the output of a job are kept."""
        return self._pod.log

    @property
    def mark(self) -> str:
        """What marks a turn in the output of a process (see turns.py)."""
        return self._mark

    def turned(self, printed: bytes, variables: Mapping[str, str]) -> None:
        """Follow the process to its next job.

        Args:
            printed: the end of the output of the job before.
            variables: those of the attempt that it runs now.
        """
        self._executor.keep_log(printed)
        self._executor.turned(variables)
        self._jobs += 1

    def watch(self) -> None:
        """Have Redis know what runs here: a leader knows only what the pod was started for."""
        self._executor.stands()

    def keep(self, printed: bytes) -> None:
        """Keep the end of the output of the job that has ended."""
        self._executor.keep_log(printed)

    def next(self) -> int | None:
        """Turn the executor to the next job of this pod, and claim it. Returns its exit status, 0
        if it is claimed; None: there is no job.
        """
        left = self._until - time.monotonic()
        if self._jobs >= self._pod.jobs or left <= 0:
            logger.info("this pod takes no further job: it has run %d", self._jobs)
            return None
        stays = min(float(os.environ.get(VARIABLES["warm"], 0)), left)
        try:
            self.stopped_by = waiting_signal()
            status = self._take(stays) if stays > 0 and not self.stopped_by else None
        except RedisError as exc:
            # It may have been given a job, which must not look like one that ended by itself.
            logger.warning("this pod takes no further job: Redis %s", describe(exc).problem)
            return EXIT_STALE
        finally:
            self._executor.disconnect()
        self._jobs += 1
        os.environ[JOBS] = str(self._pod.jobs - self._jobs)
        return status

    def _take(self, stays: float) -> int | None:
        pod, executor = self._pod, self._executor
        if executor.goes_on(
            site=pod.site,
            application=pod.application,
            settings=pod.settings,
            node=os.environ.get(NODE) or None,
            longest=pod.longest,
            stays=stays,
        ):
            logger.info("%s %s", GOES_ON, executor.holder)
            return EXIT_OK
        try:
            found = self._wait(time.monotonic() + stays)
        except _Ended as ended:
            self.stopped_by = signal.Signals(ended.number).name
            # It is given no job from now on; one that it has been given needs another pod.
            return EXIT_STALE if executor.called(self._first, leaves=True) else None
        if not found:
            return None
        logger.info("%s %s, after a pause", GOES_ON, executor.holder)
        return executor.claim()

    def _wait(self, until: float) -> bool:
        """Wait for a job. Returns whether the executor is turned to one, which it must claim. A
        signal ends it.
        """
        before = {number: signal.signal(number, _end) for number in _ENDING}
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
            while True:
                left = until - time.monotonic()
                given = self._executor.called(self._first, leaves=left <= 0)
                if given is not None:
                    return given
                self._executor.sleep(max(0.01, min(LOOK, left)))
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            for number, handler in before.items():
                signal.signal(number, handler)


def waiting_signal() -> str:
    """Return the name of a signal that waits and ends the pod; empty: none does."""
    waiting = signal.sigpending() & set(_ENDING)
    return signal.Signals(min(waiting)).name if waiting else ""


class _Ended(BaseException):
    """A signal ends the pod."""

    def __init__(self, number: int) -> None:
        self.number = number


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise _Ended(number)
