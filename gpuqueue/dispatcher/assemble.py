"""Put one dispatcher together from settings: state, launcher, finisher, watcher."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from gpuqueue import __version__
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.cancel import Canceller
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.dispatcher.health import Health
from gpuqueue.dispatcher.metrics.dispatcher import DispatcherCollector
from gpuqueue.dispatcher.metrics.queue import QueueCollector
from gpuqueue.dispatcher.metrics.serve import Endpoint, open_endpoint
from gpuqueue.dispatcher.observations import KeptObservations
from gpuqueue.dispatcher.slots import Dispatcher
from gpuqueue.dispatcher.watch import Clocks, Watcher
from gpuqueue.errors import SettingsError
from gpuqueue.glue.messages.bodies import DispatcherBodies
from gpuqueue.glue.messages.signed import Store, register
from gpuqueue.glue.results.states import States
from gpuqueue.glue.worker.queue_lengths import QueueLengths
from gpuqueue.launchers.base import Launcher
from gpuqueue.launchers.local.launcher import LocalLauncher
from gpuqueue.nvidia import devices
from gpuqueue.settings.classes import configured
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.store import layout, rights
from gpuqueue.store.client import check, connect, look
from gpuqueue.store.keys import VERSION
from gpuqueue.store.lease import Lease, group_of
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs
from gpuqueue.store.measures import Measures
from gpuqueue.store.reader import Reader

#: Seconds for each of Redis' answers to a scrape: Prometheus gives up after 10.
SCRAPE_TIMEOUT = 2.0


class Node:
    """One dispatcher, ready to start.

    ``leave`` is called when this dispatcher may not go on: the state is of another layout by now.

    Raises :class:`SettingsError` for what is missing or wrong, :class:`ServerUnreachable` when
    Redis is not there, or refuses, :class:`LayoutMismatch` when its state is not ours to work on.
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
        where = (settings.redis_url, settings.redis_setting)
        client = connect(settings.redis_url)
        look(client, *where)
        check(client, *where)
        for wrong in rights.refused(
            settings.redis_url, settings.broker_url, settings.result_backend, settings.redis_setting
        ):
            raise wrong
        layout.claim(client, *where)
        classes = configured(settings)
        line = Line(
            client, by=name, keep=settings.tombstone_seconds, max_attempts=settings.max_attempts
        )
        reader, logs, states = Reader(client), Logs(client), States(app)
        certificates = Store(settings.cert_store) if settings.cert_store else None
        register(certificates)
        bodies = DispatcherBodies(certificates)
        finisher = Finisher(line, reader, logs, app, name, bodies, settings.finish_seconds)
        repair, threads = settings.repair_seconds, settings.launch_threads
        self.dispatcher = Dispatcher(
            client, line, reader, classes, states, finisher, repair, threads, bodies
        )
        self.canceller = Canceller(client, line, reader, classes, finisher)
        if settings.execution_mode == "local":
            self.launcher: Launcher = _local(self.dispatcher, settings)
        else:
            self.launcher = _kubernetes(
                self.dispatcher,
                settings,
                KeptObservations(client, line, reader, logs, states, app),
            )
        line.owner = self.launcher.owner
        self.dispatcher.launcher = self.launcher
        finisher.use(self.launcher)
        lease = Lease(client, name, settings.lease_seconds, group_of(self.launcher.owner, classes))
        clocks = Clocks(
            settings.tick_seconds, settings.relist_seconds, repair, settings.grace_seconds
        )
        waiting = connect(settings.redis_url, timeout=settings.tick_seconds + 10)
        self.watcher = Watcher(
            *(self.dispatcher, self.launcher, lease, waiting, clocks),
            may_lead=watch,
            check_layout=lambda: layout.claim(client, *where),
            leave=leave,
        )
        self.health = Health(self.watcher, settings.tick_seconds)
        self.lengths = QueueLengths(app, list(app.amqp.queues.consume_from), SCRAPE_TIMEOUT)
        self.endpoint = self._endpoint(settings, classes) if settings.metrics_port else None

    def _endpoint(self, settings: Settings, classes: Mapping[str, GpuClass]) -> Endpoint | None:
        measures = Measures(connect(settings.redis_url, timeout=SCRAPE_TIMEOUT, retries=0))
        return open_endpoint(
            settings.metrics_address,
            settings.metrics_port,
            "metrics_port" in settings.model_fields_set,
            [
                QueueCollector(measures, classes, self.lengths),
                DispatcherCollector(self.watcher, __version__),
            ],
            {"/healthz": self.health.sick, "/readyz": self.health.unready},
        )

    def start(self) -> None:
        """Start watching; accepting begins when Celery's consumer does."""
        self.watcher.start()
        if self.endpoint is not None:
            self.endpoint.start()

    def stop(self) -> None:
        """Sign off. What runs goes on, and what waits is safe in Redis."""
        self.watcher.stop()
        self.launcher.close()
        self.dispatcher.close()
        self.dispatcher.finisher.close()
        if self.endpoint is not None:
            self.endpoint.close()
        self.lengths.close()


def _local(dispatcher: Dispatcher, settings: Settings) -> LocalLauncher:
    if not settings.app:
        raise SettingsError(
            "GPUQUEUE_APP is not set; set it to what follows `celery -A` for the application whose"
            " tasks run here"
        )
    found = devices.allowed(devices.find(), settings.devices, devices.visible_now())
    dealt = devices.deal(dispatcher.classes.values(), found)
    dispatcher.line.devices = {name: len(gpus) for name, gpus in dealt.items()}
    reader, clock = dispatcher.reader, dispatcher.line.clock
    return LocalLauncher(
        dispatcher.on_end,
        executor_environment(settings),
        settings.start_timeout,
        dealt,
        # A silent host is gone with its jobs: its container came back under a new name, or its
        # machine is off.
        lambda host: reader.host_heard(host, clock() - settings.host_silent_seconds),
    )


def _kubernetes(
    dispatcher: Dispatcher, settings: Settings, observations: KeptObservations
) -> Launcher:
    try:
        from gpuqueue.launchers.kubernetes.assemble import assemble
    except ImportError as exc:
        raise SettingsError(
            f"GPU_EXECUTION_MODE='k8s_job' needs {exc.name}; install gpuqueue[kubernetes]"
        ) from exc
    return assemble(settings, dispatcher.classes, dispatcher.on_end, observations)


def executor_environment(settings: Settings) -> dict[str, str]:
    """Return what every executor is told, whatever this process's own environment says."""
    said = {
        "GPUQUEUE_APP": settings.app,
        "GPUQUEUE_REDIS_URL": settings.redis_url,
        "GPUQUEUE_LAYOUT": str(VERSION),
        "GPUQUEUE_LOG_LEVEL": settings.log_level,
        "GPUQUEUE_TOMBSTONE_SECONDS": str(settings.tombstone_seconds),
        "CELERY_BROKER_URL": settings.broker_url,
        "CELERY_RESULT_BACKEND": settings.result_backend or settings.broker_url,
        "PYTHONUNBUFFERED": os.environ.get("PYTHONUNBUFFERED", "1"),
    }
    if settings.devices == "none":
        said["CUDA_VISIBLE_DEVICES"] = ""
    return {name: value for name, value in said.items() if value is not None}
