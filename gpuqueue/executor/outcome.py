"""The outcome of a task, claimed before Celery's tracer writes any of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.utils.log import get_logger

from gpuqueue.errors import ExecutorDied, StaleAttempt
from gpuqueue.executor import adoption, application
from gpuqueue.model.ends import EXIT_DEVICE, EXIT_NO_STATE
from gpuqueue.model.reasons import EndReason
from gpuqueue.nvidia import failures as gpu_failures
from gpuqueue.nvidia.sampler import Sampler, has_gpu
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.client import RedisError
from gpuqueue.store.passing import describe

logger = get_logger("gpuqueue.executor")
#: How many characters of a GPU failure the record keeps; the log has all.
MOST_GPU_ERROR = 300


class Outcome:
    """Claims the outcome of one task.

    Args:
        environ: the environment of this executor.
        executor: its attempt.
        sampler: has the last sample of the GPU.
    """

    def __init__(
        self, environ: Mapping[str, str], executor: ExecutorAttempt, sampler: Sampler
    ) -> None:
        self._environ = environ
        self._executor = executor
        self._sampler = sampler
        self.claimed: EndReason | None = None
        self.ends_process = False
        """Whether another task must not follow in this process."""

    @contextmanager
    def claiming(self) -> Iterator[None]:
        """Claim the outcome of an exception of the task."""
        try:
            yield
        except Retry:
            self.claim(EndReason.RETRIED)
            raise
        except (Ignore, Reject):
            self.claim(EndReason.IGNORED)
            raise
        except application.Stopped:
            raise
        except SystemExit as exc:
            self.ends_process = True
            self.claim(EndReason.ERROR)
            raise ExecutorDied(
                f"the task called sys.exit with exit code {exc.code!r}, without a result"
            ) from exc
        except SoftTimeLimitExceeded:
            self.claim(EndReason.ERROR)  # the time limit is the cause, not the interrupted code
            raise
        except Exception as exc:
            reason = gpu_failures.classify(exc, has_gpu=has_gpu(self._environ))
            if reason == EndReason.INFRA:
                self._give_up(exc)
            self.ends_process = reason == EndReason.GPU_OOM
            self.claim(reason or EndReason.ERROR)
            raise

    def claim(self, outcome: EndReason) -> None:
        """Claim an outcome. Raises Celery's :class:`Ignore` if another attempt counts, and
        :class:`application.Stopped` if Redis cannot be written.
        """
        try:
            adoption.report(self._executor, outcome, self._sampler.latest())
        except StaleAttempt as exc:
            # Ignore makes the tracer write no result, no callback and no chord part.
            logger.warning("outcome %s dropped: %s", outcome, exc)
            raise Ignore() from None
        except RedisError as exc:
            # The tracer must not treat this as a failure of the task, and write an unclaimed
            # result.
            logger.error("Redis %s; outcome %s lost: %s", describe(exc).problem, outcome, exc)
            raise application.Stopped(EXIT_NO_STATE) from exc
        self.claimed = outcome

    def _give_up(self, exc: Exception) -> NoReturn:
        """The GPU failed: write no result, so that another attempt may end the job."""
        number = self._executor.attempt.number
        logger.error("the GPU failed during attempt %s: %r", number, exc, exc_info=exc)
        first_line = f"{type(exc).__name__}: {exc}".partition("\n")[0]
        seen = {**self._sampler.latest(), "gpu_error": first_line[:MOST_GPU_ERROR]}
        try:
            self._executor.sampled(seen)
        except RedisError as error:
            logger.warning("the GPU error is not recorded: %s", error)
        raise application.Stopped(EXIT_DEVICE) from exc
