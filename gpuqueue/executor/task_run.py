"""Run one message under Celery's own tracer, and claim its end before anything of it is written."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from celery import Celery, Task, states
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr

from gpuqueue.errors import (
    ApplicationNotFound,
    ArgumentsMismatch,
    ExecutorDied,
    MalformedMessage,
    StaleAttempt,
    TaskNotFound,
)
from gpuqueue.executor import application
from gpuqueue.glue.messages import message as messages
from gpuqueue.glue.messages.bodies import NOTHING, ApplicationBodies
from gpuqueue.glue.results.events import Events
from gpuqueue.model.ends import EXIT_DEVICE, EXIT_NO_STATE
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.nvidia import failures as gpu_failures
from gpuqueue.nvidia.sampler import Sample, Sampler, has_gpu
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.client import RedisError

logger = get_logger("gpuqueue.executor")
#: How long the tombstone of a job stays, in seconds, unless the dispatcher says otherwise.
KEEP = 86_400.0
#: Characters of a GPU's failure that the record keeps; the log has it all.
TOLD = 300


class Run:
    """One message, run once."""

    def __init__(
        self,
        environ: Mapping[str, str],
        executor: ExecutorAttempt,
        record: Record,
        stored: dict[str, Any],
        worker: str,
    ) -> None:
        self._environ = environ
        self._executor = executor
        self._record = record
        self._stored = stored
        self._worker = worker
        self._keep = float(environ.get("GPUQUEUE_TOMBSTONE_SECONDS", KEEP))
        self._loglevel = environ.get("GPUQUEUE_LOG_LEVEL", "INFO")
        self._reported = False
        self._sampler = Sampler(self._sampled, environ.get("CUDA_VISIBLE_DEVICES"))

    def run(self) -> None:
        """Load the application and run the task; what cannot be loaded or called is the job's typed
        failure.
        """
        try:
            app = application.load(self._environ.get("GPUQUEUE_APP"), self._worker, self._loglevel)
        except ApplicationNotFound as exc:
            broker, backend = (
                self._environ.get("CELERY_BROKER_URL"),
                self._environ.get("CELERY_RESULT_BACKEND"),
            )
            app = application.stand_in(broker, backend, self._worker, self._loglevel)
            self._trace(app, _raiser(app, self._record, exc), self._whatever_can_be_read(app))
            return
        name = self._record["task"]
        try:
            body = messages.payload(self._stored, ApplicationBodies(app))
        except MalformedMessage as exc:
            # Nothing of the application's runs for it, and nobody whom it names is called back.
            logger.warning("refused: %s", exc)
            self._trace(app, _raiser(app, self._record, exc), NOTHING)
            return
        task = app.tasks.get(name)
        if task is None:
            known = ", ".join(
                sorted(each for each in app.tasks if not each.startswith("celery."))[:20]
            )
            where = f"GPUQUEUE_APP={self._environ.get('GPUQUEUE_APP')!r}"
            missing = TaskNotFound(f"task {name!r} is not in {where}; it has: {known}")
            task = _raiser(app, self._record, missing)
        self._trace(app, task, body)

    def _whatever_can_be_read(self, app: Celery) -> messages.Payload:
        """Return the body, if an application that cannot be had is not needed for it."""
        try:
            return messages.payload(self._stored, ApplicationBodies(app))
        except MalformedMessage:
            return NOTHING

    def _trace(self, app: Celery, task: Any, body: messages.Payload) -> None:
        with Events(app, self._worker, leaves=True) as events:
            request, context = messages.request(
                self._stored, body, app, hostname=self._worker, task=task
            )
            soft = self._limits(request.time_limits, task)
            ignored = (
                task.ignore_result
                if self._stored["headers"].get("ignore_result") is None
                else request.ignore_result
            )
            if ignored and not self._record.get("ignore_result"):
                app.backend.forget(
                    request.id
                )  # the QUEUED that a dispatcher, who does not know the task, had written
            task.track_started = True
            task = _with_run(task, self._guarded(task, soft))
            task.before_start = self._begun(task.before_start)
            tracer = build_tracer(task.name, task, app.loader, self._worker, app=app)
            events.send("task-started", request.id)
            with self._sampler:
                _, info, runtime, shown = tracer(request.id, request.args, request.kwargs, context)
            state = getattr(info, "state", None) or states.SUCCESS
            if self._reported:
                self._executor.reported(self._keep)
            if state == states.SUCCESS:
                events.send("task-succeeded", request.id, result=shown, runtime=runtime)
            elif state in (states.FAILURE, states.RETRY):
                event = "task-failed" if state == states.FAILURE else "task-retried"
                exc = (
                    info.retval.exc
                    if state == states.RETRY and info.retval.exc is not None
                    else info.retval
                )
                events.send(
                    event, request.id, exception=saferepr(exc), traceback=_traceback(info.retval)
                )
            elif state == states.REJECTED:
                events.send("task-rejected", request.id)

    def _guarded(self, task: Any, soft: float | None) -> Callable[..., Any]:
        """Return the task's own code, with its end claimed before the tracer writes anything of it."""
        inner = task.__call__ if _has_own_call(task) else task.run

        def run(*args: Any, **kwargs: Any) -> Any:
            with self._claiming():
                _check_arguments(task, args, kwargs)
                with _soft_limit(soft):
                    result = inner(*args, **kwargs)
            self._claim(EndReason.SUCCEEDED)
            return result

        return run

    def _begun(self, before_start: Callable[..., Any]) -> Callable[..., Any]:
        """Return the task's own hook: what it raises is an outcome as well, and ``run`` is never
        reached then.
        """

        def hook(*args: Any, **kwargs: Any) -> None:
            with self._claiming():
                before_start(*args, **kwargs)

        return hook

    @contextmanager
    def _claiming(self) -> Iterator[None]:
        """Claim whatever outcome an exception of the task is."""
        try:
            yield
        except Retry:
            self._claim(EndReason.RETRIED)
            raise
        except (Ignore, Reject):
            self._claim(EndReason.IGNORED)
            raise
        except application.Stopped:
            raise
        except SystemExit as exc:
            self._claim(EndReason.ERROR)
            raise ExecutorDied(
                f"the task left by sys.exit with exit code {exc.code!r}, without a result"
            ) from exc
        except SoftTimeLimitExceeded:
            self._claim(EndReason.ERROR)  # whatever it interrupted, the job's time is what ran out
            raise
        except Exception as exc:
            reason = gpu_failures.classify(exc, has_gpu=has_gpu(self._environ))
            if reason == EndReason.INFRA:
                self._give_up(exc)
            self._claim(reason or EndReason.ERROR)
            raise

    def _give_up(self, exc: Exception) -> NoReturn:
        """The GPU itself failed: write nothing, so that another attempt may end the job."""
        logger.error(
            "the GPU failed under attempt %s: %r", self._executor.attempt.number, exc, exc_info=exc
        )
        told = f"{type(exc).__name__}: {exc}".partition("\n")[0][:TOLD]
        try:
            self._sampled({**self._sampler.latest(), "gpu_error": told})
        except RedisError as error:
            logger.warning("not told how: %s", error)
        raise application.Stopped(EXIT_DEVICE) from exc

    def _sampled(self, seen: Sample) -> None:
        self._executor.sampled(seen)

    def _claim(self, outcome: EndReason) -> None:
        try:
            self._executor.report(outcome, self._sampler.latest())
        except StaleAttempt as exc:
            # Ignore makes the tracer write no result, no callback and no chord part.
            logger.warning("outcome %s dropped: %s", outcome, exc)
            raise Ignore() from None
        except RedisError as exc:
            # The tracer must not take this for the task's own failure, and write what nobody has
            # claimed.
            logger.error("Redis cannot be reached; outcome %s lost: %s", outcome, exc)
            raise application.Stopped(EXIT_NO_STATE) from exc
        self._reported = True

    def _limits(self, said: tuple[float | None, float | None], task: Any) -> float | None:
        hard, soft = (
            limit or own
            for limit, own in zip(said, (task.time_limit, task.soft_time_limit), strict=True)
        )
        if hard and hard != self._record.get("time_limit"):
            self._executor.limit(float(hard))
        return soft


def _raiser(app: Celery, record: Record, exc: Exception) -> Any:
    def run(*args: Any, **kwargs: Any) -> NoReturn:
        raise exc

    app.tasks.pop(record["task"], None)  # Celery would answer the application's own of that name
    app.task(run, name=record["task"], base=Task, typing=False)
    return app.tasks[
        record["task"]
    ]  # the task itself: what the decorator answers is a proxy until the app is finalized


def _with_run(task: Any, run: Callable[..., Any]) -> Any:
    """Give the task's instance another ``run``; with ``__call__`` of the base, the tracer calls it
    directly.
    """
    if _has_own_call(task):
        plain = type(
            task.__name__,
            (type(task),),
            {"__call__": lambda self, *args, **kwargs: run(*args, **kwargs)},
        )
        task.__class__ = plain
    else:
        task.run = run
    return task


def _has_own_call(task: Any) -> bool:
    return type(task).__call__ is not Task.__call__


def _check_arguments(task: Any, args: Any, kwargs: Any) -> None:
    header = getattr(task, "__header__", None) if getattr(task, "typing", False) else None
    if header is None:
        return
    try:
        header(*args, **kwargs)
    except TypeError as exc:
        shown = f"args={saferepr(args)}, kwargs={saferepr(kwargs)}"
        raise ArgumentsMismatch(
            f"{shown} do not fit the signature of task {task.name!r}: {exc}; correct the call"
        ) from exc


@contextmanager
def _soft_limit(seconds: float | None) -> Iterator[None]:
    """Raise SoftTimeLimitExceeded in the task when its soft limit runs out, as Celery's pool does
    by a signal.
    """

    def expire(number: int, frame: FrameType | None) -> NoReturn:
        raise SoftTimeLimitExceeded(seconds)

    if not seconds:
        yield
        return
    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _traceback(exc: object) -> str:
    return "".join(traceback.format_exception(exc)) if isinstance(exc, BaseException) else ""
