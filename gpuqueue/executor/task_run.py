"""Run one message under Celery's tracer, and claim its end before any of it is written."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial, wraps
from typing import Any, NoReturn

from billiard.einfo import ExceptionInfo
from celery import Celery, states
from celery.app import trace
from celery.exceptions import Ignore
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr
from celery.worker.request import Request

from gpuqueue.errors import (
    ApplicationNotFound,
    MalformedMessage,
    TaskNotFound,
)
from gpuqueue.executor import application, unlock
from gpuqueue.executor.celery_task import (
    changed,
    has_own_call,
    raiser,
    soft_limit,
)
from gpuqueue.executor.leaving import copies_end, grace_of, keep_of
from gpuqueue.executor.outcome import Outcome
from gpuqueue.executor.redelivery import fail, if_lost, reject
from gpuqueue.executor.retry_queue import RetryQueue
from gpuqueue.executor.waiting import sending
from gpuqueue.glue.messages import message as messages
from gpuqueue.glue.messages.bodies import NOTHING, ApplicationBodies
from gpuqueue.glue.messages.request_class import as_received, tell
from gpuqueue.glue.results.earlier import state_of
from gpuqueue.glue.results.events import Events, Heard
from gpuqueue.glue.results.running import stored_before
from gpuqueue.model import celery_redis
from gpuqueue.model.ends import EXIT_NO_APPLICATION
from gpuqueue.model.executor_env import LOAD_TIMEOUT, STATES
from gpuqueue.model.reasons import LOST_REQUEUE, EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.text import fitting
from gpuqueue.nvidia.sampler import Sample, Sampler
from gpuqueue.store.attempts import ExecutorAttempt, Messages
from gpuqueue.store.client import RedisError

logger = get_logger("gpuqueue.executor")
#: Loggers of Celery are silent until the application sets logging up.
start_logger = logging.getLogger("gpuqueue.start")
#: How many characters the record keeps of why an application cannot be loaded.
MOST_LOAD_ERROR = 500


class Run:
    """One run of one message."""

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
        self._keep = keep_of(environ)
        self._loglevel = environ.get("GPUQUEUE_LOG_LEVEL", "INFO")
        self._tracks = environ.get(STATES) != "celery"
        self._sampler = Sampler(self._sampled, environ.get("CUDA_VISIBLE_DEVICES"))
        self._retry = RetryQueue(record)
        self._outcome = Outcome(environ, executor, record, self._sampler, self._retry)
        self._told: tuple[float | None, str | None] = None, None

    def load(self) -> Celery | None:
        """Load the application. If that is impossible, report it, and return None."""
        try:
            name = self._environ.get("GPUQUEUE_APP")
            return application.load(name, self._worker, self._loglevel)
        except ApplicationNotFound as exc:
            self.not_loaded(exc)
            return None

    def run(self, app: Celery) -> bool:
        """Run the task. If that is impossible, the job fails with a typed error. Returns whether
        this process may run another one.
        """
        name = self._record["task"]
        try:
            body = messages.payload(self._stored, ApplicationBodies(app))
        except MalformedMessage as exc:
            # No code of the application runs for it, and no callback that it names.
            logger.warning("refused: %s", exc)
            return self._trace(app, raiser(app, self._record, exc), NOTHING)
        task = app.tasks.get(name)
        if task is None:
            known = ", ".join(
                sorted(each for each in app.tasks if not each.startswith("celery."))[:20]
            )
            where = f"GPUQUEUE_APP={self._environ.get('GPUQUEUE_APP')!r}"
            missing = TaskNotFound(
                f"task {name!r} is not in {where}, which has: {known or 'none'}; import its module"
                " there, or list it in `include`"
            )
            task = raiser(app, self._record, missing)
        return self._trace(app, task, body)

    def not_loaded(self, exc: ApplicationNotFound) -> None:
        """The application cannot be loaded: hold it, or fail the job if its dispatcher is older,
        and knows no held applications.
        """
        if LOAD_TIMEOUT in self._environ:
            self._hold(exc)
        settings = celery_redis.read(self._environ).celery()
        app = application.stand_in(settings, self._worker, self._loglevel)
        self._trace(app, raiser(app, self._record, exc), self._readable_body(app))

    def _hold(self, exc: ApplicationNotFound) -> NoReturn:
        """Write no result: the job is not at fault, and waits until its application works."""
        start_logger.error("%s", exc, exc_info=exc)
        try:
            self._executor.not_loaded(fitting(str(exc), MOST_LOAD_ERROR))
        except RedisError as error:
            start_logger.warning("the cause is not recorded: %s", error)
        raise application.Stopped(EXIT_NO_APPLICATION) from exc

    def _readable_body(self, app: Celery) -> messages.Payload:
        """Return the body if it is readable without the application, else an empty one."""
        try:
            return messages.payload(self._stored, ApplicationBodies(app))
        except MalformedMessage:
            return NOTHING

    def _trace(self, app: Celery, task: Any, body: messages.Payload) -> bool:
        with Events(app, self._record["gpu_class"]) as events:
            heard = Heard()
            request, context = messages.request(
                *(self._stored, body, app),
                hostname=self._worker,
                eventer=heard,
                task=task,
                redelivered=self._record["attempt"] > 1,
            )
            if app.tasks.get(task.name) is task:  # else no worker could have received it
                application.receive(app, self._worker, request)
            started = events.packed("task-started", request.id)
            hard, soft, told = self._limits(request.time_limits, task, started)
            ignored = (
                task.ignore_result
                if self._stored["headers"].get("ignore_result") is None
                else request.ignore_result
            )
            if ignored and not self._record.get("ignore_result"):
                # A dispatcher, who does not know the task, has written QUEUED.
                with suppress(NotImplementedError):  # a backend that keeps nothing
                    app.backend.forget(request.id)
            before = cache(partial(self._note_earlier, app, request.id, ignored))
            met = partial(_soft_limit_met, request, soft)
            code = self._guarded(task, before, unlock.patience((hard, soft)), soft, met)
            hook = self._begun(task, before)
            if not (started and told):
                events.send("task-started", request.id)
            with (
                changed(task, code, hook, tracks=self._tracks),
                self._sampler,
                sending(),
                self._retry.followed(),
            ):
                # Looked up here: SDKs and applications replace it.
                tell(request, request.on_accepted, os.getpid(), time.monotonic())
                tracer = trace.build_tracer(
                    *(task.name, task, app.loader, self._worker),
                    Info=self._outcome.info,
                    app=app,
                )
                try:
                    value, info, runtime, shown = tracer(
                        request.id, request.args, request.kwargs, context
                    )
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as exc:
                    value, info, runtime, shown = self._untraced(app, request, exc)
                state = getattr(info, "state", None) or states.SUCCESS
                if state == states.REJECTED:
                    reject(request, task, value)
                if info is None and not self._outcome.claimed:
                    # Celery left the task out: it has succeeded before (its setting
                    # worker_deduplicate_successful_tasks).
                    with suppress(Ignore):  # another attempt counts
                        self._outcome.claim(EndReason.SUCCEEDED)
                if state == states.FAILURE and self._has_stored_success(app):
                    state = states.SUCCESS
                ended = heard.events or _events(state, info, runtime, shown)
                told_as = (1, as_received(value), runtime) if info else (0, shown, runtime)
                tell(request, request.on_success, told_as)
            packed: list[tuple[str, str]] = []
            reported = False
            if self._outcome.claimed:
                packed = [
                    each
                    for name, fields in ended
                    for each in events.packed(name, request.id, **fields)
                ]
                reported = self._executor.reported(
                    self._keep,
                    grace_of(self._environ),
                    failed=state == states.FAILURE,
                    events=packed,
                )
            for name, fields in ended if not packed else ():
                events.send(name, request.id, **fields)
        return reported and not self._outcome.ends_process

    def _untraced(self, app: Celery, request: Request, exc: BaseException) -> trace.trace_ok_t:
        """End a task whose error its tracer has not stored; return what the tracer would have."""
        failed = ExceptionInfo(internal=True)
        state = states.FAILURE
        try:
            if not self._outcome.claimed:
                self._outcome.claim(EndReason.ERROR)
            if not self._has_stored_success(app):
                fail(request, failed)
        except Ignore:  # another attempt counts
            state = states.IGNORED
        return trace.trace_ok_t(failed, trace.TraceInfo(state, exc), 0.0, None)

    def _has_stored_success(self, app: Celery) -> bool:
        """Whether Celery has stored the success, and failed afterwards: for its log and its event,
        it shows the result as text.
        """
        return self._outcome.claimed == EndReason.SUCCEEDED and (
            state_of(app, self._record) == states.SUCCESS
        )

    def _note_earlier(self, app: Celery, task_id: str, ignored: bool) -> None:
        """Have the record say which result was there before the task: it is none of this run."""
        earlier = "" if ignored else stored_before(app, task_id)
        if not earlier:
            return
        self._record["earlier"] = earlier
        seconds, lost = self._told
        try:
            self._executor.loaded(seconds, (), lost, earlier)
        except RedisError as exc:
            logger.warning("the earlier result of %s is not noted: %s", task_id, exc)

    def _guarded(
        self,
        task: Any,
        before: Callable[[], object],
        patience: float,
        soft: float | None,
        met: Callable[[], object],
    ) -> Callable[..., Any]:
        """Return the code of the task, with its end claimed before the tracer writes any of it.
        ``before`` is called first.
        """
        inner = task.__call__ if has_own_call(task) else task.run
        if unlock.is_unlock(self._record):
            inner = unlock.patient(task, inner, patience, self._executor.others_wait)

        @wraps(inner)  # Celery's retry reads the signature of the code
        def run(*args: Any, **kwargs: Any) -> Any:
            before()
            with self._outcome.claiming(task), soft_limit(soft, met), copies_end():
                result = inner(*args, **kwargs)
            self._outcome.claim(EndReason.SUCCEEDED)
            return result

        return run

    def _begun(self, task: Any, before: Callable[[], object]) -> Callable[..., Any]:
        """Return the ``before_start`` hook of the task. An exception of it is an outcome, too, and
        ``run`` is not called then. ``before`` is called first.
        """
        before_start = task.before_start

        def hook(*args: Any, **kwargs: Any) -> None:
            before()
            with self._outcome.claiming(task), copies_end():
                before_start(*args, **kwargs)

        return hook

    def _sampled(self, seen: Sample) -> None:
        self._executor.sampled(seen)

    def _limits(
        self, limits: tuple[float | None, float | None], task: Any, events: Messages
    ) -> tuple[float | None, float | None, bool]:
        """Report that the application is loaded, with the hard limit, what a loss of this process
        means, and events; return both limits, and whether that was needed. A message overrides the
        task's limits.
        """
        conf = task.app.conf
        own_limits = (
            task.time_limit or conf.task_time_limit,
            task.soft_time_limit or conf.task_soft_time_limit,
        )
        hard, soft = (limit or own for limit, own in zip(limits, own_limits, strict=True))
        known, loads_within = self._record.get("time_limit"), self._environ.get(LOAD_TIMEOUT)
        own = float(hard) if hard and hard != known else None
        is_watched = loads_within and not 0 < (known or 0) <= float(loads_within)
        went_on = self._record.get("warm_of")
        lost = if_lost(task, self._record.get("retries", 0))
        if unlock.is_unlock(self._record):  # to look once more is harmless
            lost = LOST_REQUEUE
        self._outcome.if_lost = lost
        self._told = own, lost
        told = bool(own or is_watched or went_on or self._record.get("probes") or lost)
        if told:
            self._executor.loaded(own, events, lost)
        return hard, soft, told


def _soft_limit_met(request: Request, seconds: float | None) -> None:
    tell(request, request.on_timeout, True, seconds)


def _events(state: str, info: Any, runtime: Any, shown: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the event of the end of a task, as a worker of Celery sends it."""
    if state == states.SUCCESS:
        return [("task-succeeded", {"result": shown, "runtime": runtime})]
    if state in (states.FAILURE, states.RETRY):
        name = "task-failed" if state == states.FAILURE else "task-retried"
        is_retry = state == states.RETRY and info.retval.exc is not None
        exc = info.retval.exc if is_retry else info.retval
        return [(name, {"exception": saferepr(exc), "traceback": _traceback(info.retval)})]
    return []


def _traceback(exc: object) -> str:
    return "".join(traceback.format_exception(exc)) if isinstance(exc, BaseException) else ""
