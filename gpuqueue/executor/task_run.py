"""Run one message under Celery's tracer, and claim its end before any of it is written."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from celery import Celery, states
from celery.app.trace import build_tracer
from celery.utils.log import get_logger
from celery.utils.saferepr import saferepr

from gpuqueue.errors import (
    ApplicationNotFound,
    MalformedMessage,
    TaskNotFound,
)
from gpuqueue.executor import application
from gpuqueue.executor.celery_task import (
    changed,
    check_arguments,
    has_own_call,
    raiser,
    soft_limit,
)
from gpuqueue.executor.leaving import grace_of
from gpuqueue.executor.outcome import Outcome
from gpuqueue.executor.waiting import sending
from gpuqueue.glue.messages import message as messages
from gpuqueue.glue.messages.bodies import NOTHING, ApplicationBodies
from gpuqueue.glue.results.events import Events
from gpuqueue.model import celery_redis
from gpuqueue.model.ends import EXIT_NO_APPLICATION
from gpuqueue.model.executor_env import LOAD_TIMEOUT
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.text import fitting
from gpuqueue.nvidia.sampler import Sample, Sampler
from gpuqueue.store.attempts import ExecutorAttempt, Messages
from gpuqueue.store.client import RedisError

logger = get_logger("gpuqueue.executor")
#: Loggers of Celery are silent until the application sets logging up.
start_logger = logging.getLogger("gpuqueue.start")
#: Seconds that the tombstone of a job stays, unless the dispatcher sets it.
KEEP = 86_400.0
#: How many characters the record keeps of why an application cannot be loaded.
MOST_LOAD_ERROR = 500


def keep_of(environ: Mapping[str, str]) -> float:
    """Return the seconds that the tombstone of a job stays."""
    return float(environ.get("GPUQUEUE_TOMBSTONE_SECONDS", KEEP))


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
        self._sampler = Sampler(self._sampled, environ.get("CUDA_VISIBLE_DEVICES"))
        self._outcome = Outcome(environ, executor, self._sampler)

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
            missing = TaskNotFound(f"task {name!r} is not in {where}; it has: {known}")
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
        with Events(app, self._worker) as events:
            request, context = messages.request(
                self._stored, body, app, hostname=self._worker, task=task
            )
            started = events.packed("task-started", request.id)
            soft, told = self._limits(request.time_limits, task, started)
            ignored = (
                task.ignore_result
                if self._stored["headers"].get("ignore_result") is None
                else request.ignore_result
            )
            if ignored and not self._record.get("ignore_result"):
                app.backend.forget(
                    request.id
                )  # the QUEUED that a dispatcher, who does not know the task, had written
            code, hook = self._guarded(task, soft), self._begun(task.before_start)
            if not (started and told):
                events.send("task-started", request.id)
            with changed(task, code, hook), self._sampler, sending():
                tracer = build_tracer(task.name, task, app.loader, self._worker, app=app)
                _, info, runtime, shown = tracer(request.id, request.args, request.kwargs, context)
                state = getattr(info, "state", None) or states.SUCCESS
                if state == states.FAILURE and self._has_stored_success(app, request.id):
                    state = states.SUCCESS
            ended = _event(state, info, runtime, shown)
            packed: list[tuple[str, str]] = []
            reported = False
            if self._outcome.claimed:
                if ended:
                    packed = events.packed(ended[0], request.id, **ended[1])
                reported = self._executor.reported(
                    self._keep,
                    grace_of(self._environ),
                    failed=state == states.FAILURE,
                    # The last event follows the others, in the same way.
                    events=[*packed, *(events.goodbye() if packed or not ended else ())],
                )
            if ended and not packed:
                events.send(ended[0], request.id, **ended[1])
        return reported and not self._outcome.ends_process

    def _has_stored_success(self, app: Celery, task_id: str) -> bool:
        """Whether Celery has stored the success, and failed afterwards: for its log and its event,
        it shows the result as text.
        """
        return self._outcome.claimed == EndReason.SUCCEEDED and (
            app.backend.get_task_meta(task_id, cache=False)["status"] == states.SUCCESS
        )

    def _guarded(self, task: Any, soft: float | None) -> Callable[..., Any]:
        """Return the code of the task, with its end claimed before the tracer writes any of it."""
        inner = task.__call__ if has_own_call(task) else task.run

        def run(*args: Any, **kwargs: Any) -> Any:
            with self._outcome.claiming():
                check_arguments(task, args, kwargs)
                with soft_limit(soft):
                    result = inner(*args, **kwargs)
            self._outcome.claim(EndReason.SUCCEEDED)
            return result

        return run

    def _begun(self, before_start: Callable[..., Any]) -> Callable[..., Any]:
        """Return the ``before_start`` hook of the task. An exception of it is an outcome, too, and
        ``run`` is not called then.
        """

        def hook(*args: Any, **kwargs: Any) -> None:
            with self._outcome.claiming():
                before_start(*args, **kwargs)

        return hook

    def _sampled(self, seen: Sample) -> None:
        self._executor.sampled(seen)

    def _limits(
        self, limits: tuple[float | None, float | None], task: Any, events: Messages
    ) -> tuple[float | None, bool]:
        """Report that the application is loaded, with the hard limit and events; return the soft
        limit, and whether that was needed. A message overrides the task's limits.
        """
        hard, soft = (
            limit or own
            for limit, own in zip(limits, (task.time_limit, task.soft_time_limit), strict=True)
        )
        known, loads_within = self._record.get("time_limit"), self._environ.get(LOAD_TIMEOUT)
        own = float(hard) if hard and hard != known else None
        is_watched = loads_within and not 0 < (known or 0) <= float(loads_within)
        went_on = self._record.get("warm_of")
        told = bool(own or is_watched or went_on or self._record.get("probes"))
        if told:
            self._executor.loaded(own, events)
        return soft, told


def _event(state: str, info: Any, runtime: Any, shown: Any) -> tuple[str, dict[str, Any]] | None:
    """Return the event of the end of a task, as a worker of Celery sends it."""
    if state == states.SUCCESS:
        return "task-succeeded", {"result": shown, "runtime": runtime}
    if state in (states.FAILURE, states.RETRY):
        name = "task-failed" if state == states.FAILURE else "task-retried"
        is_retry = state == states.RETRY and info.retval.exc is not None
        exc = info.retval.exc if is_retry else info.retval
        return name, {"exception": saferepr(exc), "traceback": _traceback(info.retval)}
    return ("task-rejected", {}) if state == states.REJECTED else None


def _traceback(exc: object) -> str:
    return "".join(traceback.format_exception(exc)) if isinstance(exc, BaseException) else ""
