"""Put one dispatcher process together from settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gpuqueue import __version__
from gpuqueue.classes.gpu_class import GpuClass, chords_class
from gpuqueue.dispatcher.accept import Accept
from gpuqueue.dispatcher.application import Application
from gpuqueue.dispatcher.cancel import Canceller
from gpuqueue.dispatcher.choose_launcher import deal, kubernetes_launcher, local_launcher
from gpuqueue.dispatcher.class_turns import ClassTurns
from gpuqueue.dispatcher.class_workers import ClassWorkers, interval
from gpuqueue.dispatcher.events import EventQueue
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.dispatcher.health import Health
from gpuqueue.dispatcher.inspection import Inspection
from gpuqueue.dispatcher.intake import IntakeLoop
from gpuqueue.dispatcher.job_states import JobStates
from gpuqueue.dispatcher.leadership import Leadership
from gpuqueue.dispatcher.log_writer import LogWriter
from gpuqueue.dispatcher.metrics.dispatcher import DispatcherCollector
from gpuqueue.dispatcher.metrics.queue import QueueCollector
from gpuqueue.dispatcher.metrics.serve import Endpoint, open_endpoint
from gpuqueue.dispatcher.move import Move
from gpuqueue.dispatcher.observations import KeptObservations
from gpuqueue.dispatcher.repair import Repair
from gpuqueue.dispatcher.shown import ShownClasses
from gpuqueue.dispatcher.slots import Slots
from gpuqueue.dispatcher.stop import Stopper
from gpuqueue.dispatcher.unserved import LEASES, Unserved
from gpuqueue.dispatcher.watch import Watcher, WatchIntervals, concerns_all
from gpuqueue.glue.messages.bodies import DispatcherBodies
from gpuqueue.glue.messages.signed import CertificateStore, register
from gpuqueue.glue.profile import profile_of
from gpuqueue.glue.results.states import ResultStates
from gpuqueue.glue.worker.broker import Broker
from gpuqueue.glue.worker.queue_lengths import QueueLengths
from gpuqueue.launchers.base import FindLog, Launcher, LogSource
from gpuqueue.launchers.local.identity import machine
from gpuqueue.launchers.local.log_source import find as find_output
from gpuqueue.model.attempt import RunningAttempt
from gpuqueue.model.ends import End
from gpuqueue.model.place import NOWHERE, Site
from gpuqueue.settings.classes import configured, rules_of_tenants
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.steps import Steps
from gpuqueue.store import layout, rights, scripts
from gpuqueue.store.client import Redis, RedisError, check, connect, explained, look
from gpuqueue.store.keys import letter_keys
from gpuqueue.store.lease import Lease, group_of
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs
from gpuqueue.store.measures import Measures
from gpuqueue.store.owners import Owners
from gpuqueue.store.passing import passes
from gpuqueue.store.profiles import Profiles
from gpuqueue.store.reader import Reader
from gpuqueue.store.tenants import RulesOfFile
from gpuqueue.store.turn import Turns
from gpuqueue.store.usage import Capacities
from gpuqueue.whole_logs.sink import open_sink

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
        heartbeat: seconds between two heartbeats for monitors; 0: a default; None: none are sent.
        connect_again: has Celery's consumer connect once more.

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
        heartbeat: float | None = 0.0,
        connect_again: Callable[[], object] = lambda: None,
    ) -> None:
        scripts.read()
        client, gpu_classes = _checked_client(settings), configured(settings)
        dealt = deal(settings, gpu_classes)
        if settings.execution_mode == "local":
            gpu_classes = {
                name: each.on(len(dealt.get(name, ()))) for name, each in gpu_classes.items()
            }
        rules = rules_of_tenants(settings, gpu_classes)
        chords = chords_class(gpu_classes.values())
        classes = {**gpu_classes, chords.name: chords}
        shown = ShownClasses(client, gpu_classes, chords)
        reader, logs, events = Reader(client), Logs(client), EventQueue(app)

        def again() -> None:
            self.intake.connect_again()
            events.connect_again()
            connect_again()

        profiles = Profiles(client, classes)
        own = profile_of(app, settings.redis.told_backend)
        application = Application(app, own, settings.app, settings.told, profiles, again)
        states, informs = ResultStates(app), settings.states == "all"
        reads = application.reads_our_results
        job_states = JobStates(states, reader, classes, informs, reads)
        certificates = CertificateStore(settings.cert_store) if settings.cert_store else None
        register(certificates)
        bodies = DispatcherBodies(certificates)

        def make_line(
            owner: str = "", devices: Mapping[str, int] | None = None, site: Site = NOWHERE
        ) -> Line:
            return Line(
                client,
                by=name,
                owner=owner,
                keep=settings.tombstone_seconds,
                max_attempts=settings.max_attempts,
                max_disruptions=settings.max_disruptions,
                devices=devices,
                site=site,
            )

        def on_end(running: RunningAttempt, end: End) -> bool:
            return slots.on_end(running, end)  # slots exist before the first launch

        def find_log(where: Mapping[str, str]) -> LogSource | None:
            return find(where)  # likewise

        find: FindLog
        whole_logs = self.whole_logs = _whole_logs(settings, client, reader, name, find_log)
        if settings.execution_mode == "local":
            local, gpus = local_launcher(
                settings, gpu_classes, dealt, reader, logs, on_end, application.learn, whole_logs
            )
            launcher: Launcher = local
            begin, find = local.connect, find_output
        else:
            begin = _nothing
            # Observations need no owner: only the launcher knows it.
            send = events.put
            observations = KeptObservations(client, make_line(), reader, logs, job_states, send)
            owners = Owners(client)
            kubernetes = kubernetes_launcher(
                settings, classes, on_end, observations, owners, whole_logs
            )
            launcher, gpus, find = kubernetes, {}, kubernetes.find_log
        line, repair = make_line(launcher.owner, gpus, launcher.site), settings.repair_seconds
        finishes = settings.finish_seconds, settings.finish_timeout, settings.finish_tries
        finisher = Finisher(
            *(line, reader, logs, app, name, launcher, events.put, bodies, *finishes),
            writes_here=application.has_our_results,
            asked=application.asked,
            move=lambda record, packed: Move(self.accept)(record, packed),
        )
        threads = settings.launch_threads
        slots = Slots(client, line, classes, launcher, job_states, finisher, threads)
        self.launcher, self.finisher, self.slots = launcher, finisher, slots
        self._beside = (job_states, events)
        self.accept = Accept(
            client=client,
            line=line,
            reader=reader,
            classes=gpu_classes,
            chords=chords,
            shown=shown,
            bodies=bodies,
            launcher=launcher,
            slots=slots,
            states=job_states,
            finisher=finisher,
            limit_of=application.limit_of,
        )
        visible = float(settings.visibility_seconds)
        self.intake: IntakeLoop = IntakeLoop(lambda: Broker(app), self.accept, visible)
        application.look()
        begin()  # it may learn how messages are taken
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
        group = group_of(launcher.owner, classes)
        here = machine() if settings.execution_mode == "local" else ""
        lease = Lease(client, name, settings.lease_seconds, group, here)
        every = max(heartbeat or interval(gpu_classes), tick)
        self.workers = ClassWorkers(
            client, shown, lease, events.put, every, beats=heartbeat is not None
        )
        self.canceller = Canceller(client, line, reader, classes, finisher, unserved.names)
        self.watcher = Watcher(
            client=client,
            waiting=connect(settings.redis_url, timeout=tick + 10),
            line=line,
            classes=classes,
            shown=shown,
            lease=lease,
            leadership=Leadership(lease, launcher, tick, may_lead=watch),
            launcher=launcher,
            turns=turns,
            stopper=stopper,
            repair=Repair(client, line, reader, classes, launcher, slots, repair, relist, steps),
            unserved=unserved,
            workers=self.workers,
            states=job_states,
            intervals=WatchIntervals(tick, relist),
            steps=steps,
            consumed=lambda: self.intake.consumed,
            learn=application.look,
            note_capacity=Capacities(client, shown, settings.usage_entries).note,
            follow=RulesOfFile(client, *rules, list(gpu_classes)).follow,
            check_layout=lambda: layout.claim(client, *_where(settings)),
            leave=leave,
        )
        inspecting = connect(settings.redis_url, timeout=SCRAPE_TIMEOUT, retries=0)
        self.inspection = Inspection(inspecting, self.watcher.heard_within)
        self.health = Health(self.watcher, settings.tick_seconds)
        self.queue_lengths = QueueLengths(app, list(app.amqp.queues.consume_from), SCRAPE_TIMEOUT)
        self.endpoint = self._endpoint(settings, shown) if settings.metrics_port else None

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
        if self.whole_logs is not None:
            self.whole_logs.start()
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
        if self.whole_logs is not None:
            self.whole_logs.close()
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


def _whole_logs(
    settings: Settings, client: Redis, reader: Reader, name: str, find: FindLog
) -> LogWriter | None:
    if settings.sink is None:
        return None
    sink = open_sink(settings.sink)
    return LogWriter(client, reader, sink, name, settings.tombstone_seconds, find)


def _nothing() -> None:
    pass
