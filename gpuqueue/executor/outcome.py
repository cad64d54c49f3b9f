"""The outcome of a task, claimed before Celery's tracer writes any of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from celery import states
from celery.app.trace import TraceInfo
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.utils.log import get_logger

from gpuqueue.errors import ExecutorDied, StaleAttempt
from gpuqueue.executor import adoption, application, limits, streams
from gpuqueue.executor.redelivery import outcome_of, reason_of, status_of
from gpuqueue.executor.retry_queue import RetryQueue
from gpuqueue.model import escalation
from gpuqueue.model.ends import EXIT_DEVICE, EXIT_NO_FILES, EXIT_NO_STATE
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.text import fitting
from gpuqueue.nvidia import failures as gpu_failures
from gpuqueue.nvidia.sampler import Sampler, has_gpu
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.client import RedisError, lacks_files
from gpuqueue.store.passing import describe

logger = get_logger("gpuqueue.executor")
#: How many characters of a GPU failure the record keeps; the log has all.
MOST_GPU_ERROR = 300


class Outcome:
    """Claims the outcome of one task.

    Args:
        environ: the environment of this executor.
        executor: its attempt.
        record: of the task.
        sampler: has the last sample of the GPU.
        retry: knows where its retry went.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        executor: ExecutorAttempt,
        record: Record,
        sampler: Sampler,
        retry: RetryQueue,
    ) -> None:
        self._environ = environ
        self._executor = executor
        self._record = record
        self._sampler = sampler
        self._retry = retry
        self._visible = environ.get("CUDA_VISIBLE_DEVICES")
        self._limits = limits.now()
        self.claimed: EndReason | None = None
        self.ends_process = False
        """Whether another task must not follow in this process."""
        self.if_lost: str | None = None
        """What Celery does if this process is lost."""

    @contextmanager
    def claiming(self, task: Any) -> Iterator[None]:
        """Claim the outcome of an exception of a task."""
        try:
            yield
        except Retry:
            self.claim(EndReason.RETRIED)
            raise
        except Ignore:
            self.claim(EndReason.IGNORED)
            raise
        except Reject as exc:
            self.claim(outcome_of(exc, task), reason_of(exc) if exc.requeue else None)
            raise
        except application.Stopped:
            raise
        except (SystemExit, KeyboardInterrupt) as exc:
            self.ends_process = True
            if self.if_lost:  # for Celery this process is lost
                raise application.Stopped(status_of(exc)) from exc
            self.claim(EndReason.ERROR)
            raise ExecutorDied(f"the task {_exited(exc)}, without a result") from exc
        except SoftTimeLimitExceeded:
            self.claim(EndReason.ERROR)  # the time limit is the cause, not the interrupted code
            raise
        except BaseException as exc:  # also timeouts of gevent, and panics of Rust
            reason = gpu_failures.classify(exc, has_gpu=self._has_gpu())
            if reason == EndReason.INFRA:
                self._give_up(exc)
            self.ends_process = reason == EndReason.GPU_OOM or not isinstance(exc, Exception)
            why = None
            if reason == EndReason.GPU_OOM:
                self._escalate(exc)
                why = escalation.why_not_again(self._record)
            self.claim(reason or EndReason.ERROR, why)
            raise

    def info(self, state: str, retval: Any = None) -> TraceInfo:
        """Return what the tracer writes an error with: one that came from outside the code of the
        task, as its loader or its arguments, is claimed as it is written.
        """
        return _Claiming(self, state, retval)

    def claim(self, outcome: EndReason, why: str | None = None) -> None:
        """Claim an outcome; ``why`` the job is delivered again, or not run again. Raises Celery's
        :class:`Ignore` if another attempt counts, and :class:`application.Stopped` if Redis cannot
        be written.
        """
        # The task may have taken away what writing it needs.
        limits.restore(self._limits)
        streams.fill()
        elsewhere = outcome == EndReason.RETRIED and self._retry.is_elsewhere
        seen = self._sampler.latest()
        try:
            adoption.report(self._executor, outcome, seen, why, elsewhere=elsewhere)
        except StaleAttempt as exc:
            # Ignore makes the tracer write no result, no callback and no chord part.
            logger.warning("outcome %s dropped: %s", outcome, exc)
            raise Ignore() from None
        except RedisError as exc:
            # The tracer must not treat this as a failure of the task, and write an unclaimed
            # result.
            logger.error("Redis %s; outcome %s lost: %s", describe(exc).problem, outcome, exc)
            status = EXIT_NO_FILES if lacks_files(exc) else EXIT_NO_STATE
            raise application.Stopped(status) from exc
        self.claimed = outcome

    def _escalate(self, exc: BaseException) -> None:
        """The GPU ran out of memory: if the job runs once more in a larger place, make it a retry
        for Celery, which writes no failure. Raises Celery's :class:`Retry`.
        """
        place = escalation.parse_place(self._record.get("larger"))
        if place is None:
            return
        here, there = escalation.place_of(self._record).words(), place.words()
        logger.warning("out of GPU memory in %s; the job runs again in %s", here, there)
        self.claim(EndReason.ESCALATED)
        raise Retry(f"out of GPU memory in {here}; it runs again in {there}", exc=exc) from exc

    def _has_gpu(self) -> bool:
        """Whether a missing GPU is no doing of the task: it has one, and has not hidden it."""
        hidden = self._environ.get("CUDA_VISIBLE_DEVICES") != self._visible
        return has_gpu(self._environ) and not hidden

    def _give_up(self, exc: BaseException) -> NoReturn:
        """The GPU failed: write no result, so that another attempt may end the job."""
        number = self._executor.attempt.number
        logger.error("the GPU failed during attempt %s: %r", number, exc, exc_info=exc)
        first_line = f"{type(exc).__name__}: {exc}".partition("\n")[0]
        seen = {**self._sampler.latest(), "gpu_error": fitting(first_line, MOST_GPU_ERROR)}
        try:
            self._executor.sampled(seen)
        except RedisError as error:
            logger.warning("the GPU error is not recorded: %s", error)
        raise application.Stopped(EXIT_DEVICE) from exc


class _Claiming(TraceInfo):
    """Claims a failure that is not claimed before it is written."""

    __slots__ = ("outcome",)

    def __init__(self, outcome: Outcome, state: str, retval: Any) -> None:
        super().__init__(state, retval)
        self.outcome = outcome

    def handle_error_state(self, *args: Any, **kwargs: Any) -> Any:
        if self.state == states.FAILURE and not self.outcome.claimed:
            self.outcome.claim(EndReason.ERROR)
        return super().handle_error_state(*args, **kwargs)


def _exited(exc: SystemExit | KeyboardInterrupt) -> str:
    if isinstance(exc, SystemExit):
        return f"called sys.exit with exit code {exc.code!r}"
    return "raised KeyboardInterrupt"
