"""``celery -A gpuqueue worker``: a dispatcher. ``celery -A gpuqueue flower``: Flower beside it."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import click
from celery import Celery, bootsteps, signals
from celery.bin.base import CeleryOption
from celery.utils.log import get_logger
from celery.worker import state

from gpuqueue.dispatcher.assemble import DispatcherProcess
from gpuqueue.dispatcher.celery_sentinel import ask_sentinels
from gpuqueue.errors import (
    ClusterNotReady,
    GpuQueueError,
    InvalidJob,
    ServerNotReady,
    SettingsError,
)
from gpuqueue.glue.worker.consumer import connect_again
from gpuqueue.glue.worker.control import Control
from gpuqueue.glue.worker.heartbeat import Heartbeat
from gpuqueue.glue.worker.intake_step import Intake
from gpuqueue.model.names import CHOOSING, parse_queue
from gpuqueue.settings.classes import configured
from gpuqueue.settings.dispatcher import load

logger = get_logger(__name__)
# To Flower each attempt of an executor of 0.1 is a worker: ended ones must not fill its list.
os.environ.setdefault("FLOWER_PURGE_OFFLINE_WORKERS", "60")

app = Celery("gpuqueue", amqp="gpuqueue.glue.worker.queues:DispatcherAMQP")
try:
    app.config_from_object("gpuqueue.dispatcher.celeryconfig", force=True)
    ask_sentinels(app)
    #: Seconds to leave: where Redis does not answer, Celery waits without limit.
    LEAVE_SECONDS = load().leave_seconds
except GpuQueueError as exc:
    # Celery would show a traceback of its loader instead of the fix.
    sys.exit(f"gpuqueue: {exc}")


class GpuStep(bootsteps.StartStopStep):
    """The step of a worker that starts and stops its dispatcher."""

    requires = ("celery.worker.components:Pool",)
    name = "gpuqueue"

    def __init__(
        self,
        worker: Any,
        gpu_watch: bool = True,
        without_heartbeat: bool = False,
        heartbeat_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(worker, **kwargs)
        self._watch = gpu_watch
        self._heartbeat = None if without_heartbeat else float(heartbeat_interval or 0)
        self._dispatcher: DispatcherProcess | None = None

    def start(self, worker: Any) -> None:
        """Make the dispatcher and start it. An error ends the worker with its message."""
        try:
            _check_queues(worker.app)
            self._dispatcher = self._make(worker)
        except GpuQueueError as exc:
            click.echo(f"gpuqueue: {exc}", err=True)
            raise SystemExit(os.EX_CONFIG) from None
        signal.signal(signal.SIGALRM, _leave_at_once)
        worker.gpuqueue = self._dispatcher
        signals.worker_shutting_down.connect(self._take_no_more)
        self._dispatcher.start()

    def _make(self, worker: Any) -> DispatcherProcess:
        """Make the dispatcher, once Redis and the cluster can serve it."""
        told = ""
        while True:
            try:
                return DispatcherProcess(
                    worker.app,
                    load(),
                    worker.hostname,
                    watch=self._watch,
                    leave=_leave,
                    heartbeat=self._heartbeat,
                    connect_again=lambda: connect_again(worker.consumer),
                )
            except (ServerNotReady, ClusterNotReady) as exc:
                if str(exc) != told:
                    told = str(exc)
                    logger.warning("waiting: %s", exc, extra={"action": "not_ready"})
            state.maybe_shutdown()
            time.sleep(1)

    def stop(self, worker: Any) -> None:
        """Stop the dispatcher. Running attempts continue."""
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            dispatcher.stop()

    terminate = stop

    def _take_no_more(self, **_: Any) -> None:
        """Stop the intake at the signal itself: the loop of Celery notices it up to 1 s later."""
        if self._dispatcher is not None:
            self._dispatcher.intake.take_no_more()


def _leave() -> None:
    """Make Celery shut this worker down as on SIGTERM."""
    state.should_stop = os.EX_CONFIG


@signals.worker_shutting_down.connect
def _limit_leaving(**_: Any) -> None:
    if signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0):  # a second signal must not reset it
        signal.setitimer(signal.ITIMER_REAL, LEAVE_SECONDS)


def _leave_at_once(*_: object) -> None:
    """End without the steps that take too long: other dispatchers repair the state as after a
    crash.
    """
    # No logger: the signal may have interrupted the main thread in it.
    os.write(
        2,
        f"gpuqueue: shutdown timed out after {LEAVE_SECONDS:g} s;"
        " other dispatchers will take over\n".encode(),
    )
    os._exit(os.EX_TEMPFAIL)


def _check_queues(application: Celery) -> None:
    """Refuse queues that are no GPU queues. A dispatcher that consumes any queue of a class also
    consumes its plain one.
    """
    classes = configured(load())
    queues = application.amqp.queues
    for name in list(queues.consume_from):
        try:
            parsed = parse_queue(name)
        except InvalidJob as exc:
            raise SettingsError(f"-Q: {exc}; a dispatcher takes GPU queues only") from None
        if parsed.gpu_class not in (*CHOOSING, *classes):
            raise SettingsError(
                f"-Q: queue={name!r} names the unknown class {parsed.gpu_class!r}; this dispatcher"
                f" has: {', '.join(classes)}"
            )
        if parsed.gpu_class not in CHOOSING:
            queues.select_add(queues[f"gpu.{parsed.gpu_class}"])


app.steps["worker"].add(GpuStep)
app.steps["consumer"].add(Control)
app.steps["consumer"].add(Intake)
app.steps["consumer"].add(Heartbeat)
app.user_options["worker"].add(
    CeleryOption(
        ["--gpu-watch/--no-gpu-watch"],
        default=True,
        help="Run the watcher here (one of all dispatchers is elected).",
        help_group="GPU Queue Options",
    )
)
