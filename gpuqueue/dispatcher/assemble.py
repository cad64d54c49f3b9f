"""Put one dispatcher process together from settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from gpuqueue import __version__
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.accept import Accept
from gpuqueue.dispatcher.cancel import Canceller
from gpuqueue.dispatcher.class_turns import ClassTurns
from gpuqueue.dispatcher.events import EventQueue
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.dispatcher.health import Health
from gpuqueue.dispatcher.intake import IntakeLoop
from gpuqueue.dispatcher.job_states import JobStates
from gpuqueue.dispatcher.metrics.dispatcher import DispatcherCollector
from gpuqueue.dispatcher.metrics.queue import QueueCollector
from gpuqueue.dispatcher.metrics.serve import Endpoint, open_endpoint
from gpuqueue.dispatcher.observations import KeptObservations
from gpuqueue.dispatcher.repair import Repair
from gpuqueue.dispatcher.slots import Slots
from gpuqueue.dispatcher.stop import Stopper
from gpuqueue.dispatcher.unserved import LEASES, Unserved
from gpuqueue.dispatcher.watch import Watcher, WatchIntervals, concerns_all
from gpuqueue.errors import SettingsError
from gpuqueue.glue.messages.bodies import DispatcherBodies
from gpuqueue.glue.messages.signed import CertificateStore, register
from gpuqueue.glue.results.states import ResultStates
from gpuqueue.glue.worker.broker import Broker
from gpuqueue.glue.worker.queue_lengths import QueueLengths
from gpuqueue.launchers.base import Launcher, OnEnd
from gpuqueue.launchers.local.identity import machine
from gpuqueue.launchers.local.launcher import LocalLauncher
from gpuqueue.model.attempt import RunningAttempt
from gpuqueue.model.ends import End
from gpuqueue.model.executor_env import LOAD_TIMEOUT, START
from gpuqueue.model.place import NOWHERE, Site
from gpuqueue.nvidia import devices
from gpuqueue.settings.classes import configured
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.redis import names
from gpuqueue.steps import Steps
from gpuqueue.store import layout, rights, scripts
from gpuqueue.store.client import Redis, RedisError, check, connect, explained, look
from gpuqueue.store.keys import VERSION, letter_keys
from gpuqueue.store.lease import Lease, group_of
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs
from gpuqueue.store.measures import Measures
from gpuqueue.store.passing import passes
from gpuqueue.store.reader import Reader
from gpuqueue.store.turn import Turns

#: Seconds for each answer of Redis during a scrape: Prometheus gives up after 10.
SCRAPE_TIMEOUT = 2.0


class DispatcherProcess:
    """One dispatcher, ready to start.

    Args:
        app: its Celery application.
        settings: its settings.
        name: its name.
        watch: whether its watcher may lead.
        leave: called if Redis has the state of another layout by now: the process must end.

    Raises:
        SettingsError: a setting is missing or wrong.
        ServerUnreachable: Redis cannot be reached, or refuses the user. ServerNotReady: it answers,
            but cannot serve for now; try again.
        LayoutMismatch: Redis has the state of another layout.
    """

    def __init__(
        self,
        app: Any,
        settings: Settings,
        name: str,
        *,
        watch: bool = True,
        leave: Callable[[], None] = lambda: None,
    ) -> None:
        scripts.read()
        client, classes = _checked_client(settings), configured(settings)
        reader, logs, events = Reader(client), Logs(client), EventQueue(app)
        job_states = JobStates(ResultStates(app), reader, classes)
        certificates = CertificateStore(settings.cert_store) if settings.cert_store else None
        register(certificates)
        bodies = DispatcherBodies(certificates)

        def make_line(
            owner: str = "", devices: Mapping[str, int] | None = None, site: Site = NOWHERE
        ) -> Line:
            keep, most = settings.tombstone_seconds, settings.max_attempts
            return Line(
                client,
                by=name,
                owner=owner,
                keep=keep,
                max_attempts=most,
                devices=devices,
                site=site,
            )

        def on_end(running: RunningAttempt, end: End) -> bool:
            return slots.on_end(running, end)  # slots exist before the first launch

        if settings.execution_mode == "local":
            launcher, gpus = _local(settings, classes, reader, logs, on_end)
        else:
            # Observations need no owner: only the launcher knows it.
            send = events.put
            observations = KeptObservations(client, make_line(), reader, logs, job_states, send)
            launcher, gpus = _kubernetes(settings, classes, on_end, observations), {}
        line, repair = make_line(launcher.owner, gpus, launcher.site), settings.repair_seconds
        finishes = settings.finish_seconds, settings.finish_timeout, settings.finish_tries
        finisher = Finisher(line, reader, logs, app, name, launcher, events.put, bodies, *finishes)
        threads = settings.launch_threads
        slots = Slots(client, line, classes, launcher, job_states, finisher, threads)
        self.launcher, self.finisher, self.slots = launcher, finisher, slots
        self._beside = (job_states, events)
        self.accept = Accept(
            client, line, reader, classes, bodies, launcher, slots, job_states, finisher
        )
        visible = float(settings.visibility_seconds)
        self.intake = IntakeLoop(lambda: Broker(app), self.accept, visible)
        self.passes = passes
        relist = settings.relist_seconds
        steps = Steps(concerns_all)
        stopper = Stopper(reader, launcher, settings.grace_seconds, steps)
        silence = LEASES * settings.lease_seconds
        unserved = Unserved(client, line, reader, classes, stopper, finisher, silence, steps)
        tick = settings.tick_seconds
        turns = ClassTurns(
            Turns(client, line), classes, slots, stopper, finisher, steps, tick, repair
        )
        self.canceller = Canceller(client, line, reader, classes, finisher, unserved.names)
        self.watcher = Watcher(
            client=client,
            waiting=connect(settings.redis_url, timeout=tick + 10),
            line=line,
            classes=classes,
            lease=Lease(
                client,
                name,
                settings.lease_seconds,
                group_of(launcher.owner, classes),
                machine() if settings.execution_mode == "local" else "",
            ),
            launcher=launcher,
            turns=turns,
            stopper=stopper,
            repair=Repair(client, line, reader, classes, launcher, slots, repair, relist, steps),
            unserved=unserved,
            states=job_states,
            intervals=WatchIntervals(tick, relist),
            steps=steps,
            may_lead=watch,
            check_layout=lambda: layout.claim(client, *_where(settings)),
            leave=leave,
        )
        self.health = Health(self.watcher, settings.tick_seconds)
        self.queue_lengths = QueueLengths(app, list(app.amqp.queues.consume_from), SCRAPE_TIMEOUT)
        self.endpoint = self._endpoint(settings, classes) if settings.metrics_port else None

    def _endpoint(self, settings: Settings, classes: Mapping[str, GpuClass]) -> Endpoint | None:
        measures = Measures(connect(settings.redis_url, timeout=SCRAPE_TIMEOUT, retries=0))
        return open_endpoint(
            settings.metrics_address,
            settings.metrics_port,
            "metrics_port" in settings.model_fields_set,
            [
                QueueCollector(
                    measures,
                    classes,
                    self.queue_lengths,
                    lambda: self.queue_lengths.members(letter_keys()[1]),
                ),
                DispatcherCollector(self.watcher, __version__),
            ],
            {"/healthz": self.health.sick, "/readyz": self.health.unready},
        )

    def start(self) -> None:
        """Start the watcher and the endpoint. Celery's consumer starts to accept messages."""
        self.watcher.start()
        if self.endpoint is not None:
            self.endpoint.start()

    def stop(self) -> None:
        """Sign off. Running attempts continue, and waiting jobs stay in Redis."""
        self.intake.stop()
        self.watcher.stop()
        self.canceller.close()
        self.launcher.close()
        self.slots.close()
        self.finisher.close()
        for each in self._beside:
            each.close()
        if self.endpoint is not None:
            self.endpoint.close()
        self.queue_lengths.close()


def _where(settings: Settings) -> tuple[str, str]:
    """Return the address of the state, and the setting that names it."""
    return settings.redis_url, settings.redis_setting


def _checked_client(settings: Settings) -> Redis:
    client, where = connect(settings.redis_url), _where(settings)
    look(client, *where)
    check(client, *where)
    for refusal in rights.refused(settings.redis, settings.redis_setting):
        raise refusal
    try:
        layout.claim(client, *where)
    except RedisError as exc:
        raise explained(exc, *where) from exc
    return client


def _local(
    settings: Settings,
    classes: Mapping[str, GpuClass],
    reader: Reader,
    logs: Logs,
    on_end: OnEnd,
) -> tuple[Launcher, dict[str, int]]:
    """Return the local launcher, and how many GPUs it deals to each class."""
    if not settings.app:
        raise SettingsError(
            "GPUQUEUE_APP is not set; set it to the argument of `celery -A` for the application"
            " whose tasks run here"
        )
    found = devices.allowed(devices.find(), settings.devices, devices.visible_now())
    dealt = devices.deal(classes.values(), found)
    launcher = LocalLauncher(
        on_end,
        {**executor_environment(settings), START: settings.start},
        settings.start_timeout,
        dealt,
        # A silent machine is gone with its jobs: it is off, or its container has restarted.
        lambda machine: reader.host_heard(machine, settings.host_silent_seconds),
        keep_log=lambda attempt, text: logs.keep(attempt, text, settings.tombstone_seconds),
        directory=settings.runtime_dir,
        unread=names(Settings),
    )
    launcher.connect()
    return launcher, {name: len(gpus) for name, gpus in dealt.items()}


def _kubernetes(
    settings: Settings,
    classes: Mapping[str, GpuClass],
    on_end: OnEnd,
    observations: KeptObservations,
) -> Launcher:
    try:
        from gpuqueue.launchers.kubernetes.assemble import assemble
    except ImportError as exc:
        raise SettingsError(
            f"GPU_EXECUTION_MODE='k8s_job' needs {exc.name}; install gpuqueue[kubernetes]"
        ) from exc
    return assemble(settings, classes, on_end, observations)


def executor_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of every executor, independent of that of this process."""
    variables = {
        "GPUQUEUE_APP": settings.app,
        "GPUQUEUE_LAYOUT": str(VERSION),
        "GPUQUEUE_LOG_LEVEL": settings.log_level,
        "GPUQUEUE_TOMBSTONE_SECONDS": str(settings.tombstone_seconds),
        "GPUQUEUE_GRACE_SECONDS": str(settings.grace_seconds),
        LOAD_TIMEOUT: str(settings.load_timeout or settings.start_timeout),
        **settings.redis.environment(),
        "PYTHONUNBUFFERED": os.environ.get("PYTHONUNBUFFERED", "1"),
    }
    if settings.devices == "none":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return {name: value for name, value in variables.items() if value is not None}
