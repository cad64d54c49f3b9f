"""The local launcher: each attempt is a process of this machine, started by a runner."""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpuqueue import __version__
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import GpuQueueError, InvalidJob
from gpuqueue.launchers.base import ApplicationUnavailable, LauncherClosed, OnEnd, WholeLogs
from gpuqueue.launchers.local import earlier, runtime
from gpuqueue.launchers.local.finishes import NO_GPU, Finishes
from gpuqueue.launchers.local.identity import Instance
from gpuqueue.launchers.local.listing import Listing
from gpuqueue.launchers.local.log_source import OutputLog
from gpuqueue.launchers.local.output import Output, last_bytes
from gpuqueue.launchers.local.runner import OnProfile, Runner, RunnerAway, RunnerRefuses
from gpuqueue.launchers.local.started import Started
from gpuqueue.launchers.local.unused import remove_unused
from gpuqueue.model.attempt import Attempt, LiveAttempt, RunningAttempt
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.ends import End, explain
from gpuqueue.model.executor_env import (
    FINISHER,
    LOAD_TIMEOUT,
    OF_ATTEMPT,
    RUNTIME,
    START,
    VARIABLES,
    parse_record,
    record_variables,
)
from gpuqueue.model.names import CHORDS
from gpuqueue.model.place import Site
from gpuqueue.model.record import Record, devices_of, gpus_of
from gpuqueue.steps import Steps

logger = logging.getLogger(__name__)
#: Seconds that a runner gets to start, beside the import of the application.
MARGIN = 10.0


class LocalLauncher:
    """Starts executors as processes.

    Args:
        on_end: called with each end, from a thread of this launcher.
        claim_within: seconds from the launch until an executor must have claimed its attempt.
        settings: environment of every executor (broker, backend, application).
        devices: class → its GPUs, as UUIDs or indexes for CUDA_VISIBLE_DEVICES.
        host_lives: whether another machine still has a dispatcher. A restarted container is a new
            machine.
        keep_log: keeps the end of what an attempt printed.
        whole_logs: takes whole outputs; None: nothing does.
        on_profile: told what the application says of its broker and results.
        directory: GPUQUEUE_RUNTIME_DIR.
        unread: variables of our environment that make no difference to an application.
        command: the command of attempts in place of the executor. Each one is a new process
            then.
    """

    owner = ""
    #: Each one may import the application, and the jobs need the CPU of a GPU machine.
    finishers = 2
    silent: Mapping[tuple[str, str], int] = MappingProxyType({})
    elsewhere: Mapping[str, str] = MappingProxyType({})
    unknown: Collection[str] = ()

    def __init__(
        self,
        on_end: OnEnd,
        settings: Mapping[str, str],
        claim_within: float,
        devices: Mapping[str, Sequence[str]] | None = None,
        host_lives: Callable[[str], bool] = lambda machine: True,
        *,
        keep_log: Callable[[Attempt, str], object] = lambda attempt, text: None,
        whole_logs: WholeLogs | None = None,
        on_profile: OnProfile = lambda profile: None,
        directory: Path | None = None,
        unread: frozenset[str] = frozenset(),
        command: Sequence[str] = (),
    ) -> None:
        self._on_end = on_end
        self.claim_within = claim_within
        self._settings = dict(settings)
        self._devices = devices or {}
        self._host_lives = host_lives
        self._keep_log = keep_log
        self._whole_logs = whole_logs
        if command:
            self._settings[START] = "spawn"
        own = {name: value for name, value in os.environ.items() if name not in OF_ATTEMPT}
        environ = own | self._settings
        alike = {name: own[name] for name in set(own) - unread} | self._settings
        key = runtime.key_of(__version__, [sys.executable, *command], alike, str(Path.cwd()))
        self._base = directory or runtime.base()
        self._runtime = runtime.prepare(self._base, key)
        app = self._settings.get("GPUQUEUE_APP", "")
        self.site = Site(socket.gethostname(), app, self._devices, settings=key)
        self._listing = Listing(self._base, self._settings.get("GPUQUEUE_REDIS_URL", ""))
        self._runner = Runner(
            self._runtime,
            environ,
            [sys.executable, "-m", "gpuqueue.runner"],
            command,
            float(self._settings.get(LOAD_TIMEOUT, claim_within)) + MARGIN,
            self._ended,
            lambda: bool(self._started),
            on_profile,
        )
        self._started = Started(self._kill)
        self._steps = Steps()
        self._output = Output(name_of=self._listing.holder)
        self._finishes = Finishes(self._runner, self._runtime, self._output)
        self._ends = ThreadPoolExecutor(1, "gpuqueue-ends")
        self._closed = threading.Event()

    def check_job(self, record: Record, gpu_class: GpuClass) -> None:
        """Refuse container jobs, since there is no container runtime here."""
        if record["task"] == CONTAINER_TASK:
            raise InvalidJob.field(
                "task",
                CONTAINER_TASK,
                "runs a container image, but this dispatcher starts local processes",
                "set GPU_EXECUTION_MODE=k8s_job, or send a task of the application",
            )

    def start(self, record: Record) -> str:
        """Start an attempt: see :class:`gpuqueue.launchers.base.Launcher`.

        A stray process of the job that this launcher started, with an earlier token, ends first.
        """
        self._started.end_strays(record)
        nonce = secrets.token_hex(8)
        own, is_new = self._started.begin(nonce, record)
        if not is_new:
            return own.instance.result()
        try:
            self._output.follow(nonce, Attempt.of(record).holder, self._runtime.output(nonce))
            variables = {**self._settings, **record_variables(record), **self._gpu(record)}
            if record.get("reuse", 0) > 1:
                variables[RUNTIME] = str(self._runtime.path)
            own.instance.set_result(self._runner.start(nonce, variables))
        except BaseException as exc:
            self._output.ended(nonce)
            error = self._error(exc)
            own.instance.set_exception(error)
            self._started.pop(nonce)
            raise error from exc
        return own.instance.result()

    def _error(self, exc: BaseException) -> BaseException:
        """Return what the contract has for an error of the runner."""
        if isinstance(exc, RunnerRefuses) and exc.kind == "application":
            return ApplicationUnavailable(str(exc))
        if isinstance(exc, RunnerAway) and self._closed.is_set():
            return LauncherClosed()
        return OSError(str(exc)) if isinstance(exc, RunnerRefuses | RunnerAway) else exc

    def stop(self, instance: str, signal: str) -> bool:
        """Send a signal to an attempt, if its pid is still the same process."""
        try:
            found = Instance.parse(instance)
        except ValueError:
            if earlier.host_of(instance) != self.site.host:
                return True
            if not earlier.runs(instance):
                return False
            earlier.send_signal(instance, signal)
            return True
        return not found.process.is_here or found.process.signal(signal)

    def abandon(self, record: Record) -> bool:
        """Return True: a process is listed from its start on, so an unlisted one does not run."""
        return True

    def end_of(self, instance: str) -> End | None:
        """Return how a process ended; with an unknown cause if no runner has seen it.

        An instance of another machine counts as running while a dispatcher lives there.
        """
        try:
            found = Instance.parse(instance)
        except ValueError:
            host = earlier.host_of(instance)
            here = host == self.site.host
            runs = earlier.runs(instance) if here else self._host_lives(host)
            return None if runs else explain(None)
        if not found.process.is_here:
            return None if self._host_lives(found.process.machine) else explain(None)
        if found.process.runs or self._listing.is_being_ended(found):
            return None
        return _end(self._listing.status(found))

    def list(self) -> builtins.list[LiveAttempt]:
        """Return the attempts of our Redis among the processes of this machine."""
        return self._listing.live()

    def watch(self, running: RunningAttempt) -> None:
        """Do nothing: a runner tells every dispatcher the ends of orphans."""

    def lead(self, leads: bool) -> None:
        """Do nothing: runners tell each dispatcher what it has started."""

    def look(self) -> bool:
        """Return True: this machine is always in sight."""
        return True

    def unseen(self) -> float:
        """Return 0: there is no cluster to ask."""
        return 0.0

    def check(self, now: float) -> None:
        """Do nothing: a started process does not wait for anything."""

    def finish(
        self, record: Record, finisher: str, timeout: float, wanted: Callable[[], bool]
    ) -> int | None:
        """Run the executor as a finisher, without a GPU.

        Returns its exit status, or None after the timeout.
        """
        variables = {**self._settings, **record_variables(record), FINISHER: finisher}
        return self._finishes.run(record["delivery"], variables, timeout)

    def connect(self) -> None:
        """Start the runner, if there is none, in the background: the first job need not wait, and
        ends of earlier attempts are told.
        """

        def connect() -> None:
            if gone := remove_unused(self._base, self._runtime):
                logger.info(
                    "unused runtime directories removed: %s",
                    ", ".join(gone),
                    extra={"action": "directories_removed"},
                )
            try:
                self._runner.connect()
            except (GpuQueueError, OSError) as exc:
                if not self._closed.is_set():
                    logger.error("%s", exc, extra={"action": "runner_failed"})

        threading.Thread(target=connect, name="gpuqueue-connect", daemon=True).start()

    def close(self) -> None:
        """Stop watching. Jobs continue, and another dispatcher hears of their ends."""
        self._closed.set()
        self._finishes.close()
        self._runner.close()
        self._ends.shutdown(wait=True, cancel_futures=True)
        self._output.close()

    def _kill(self, nonce: str, record: Record) -> bool:
        """Kill the process of an attempt; return False if it has gone on to another one."""
        variables = self._listing.variables(nonce)
        if variables and variables.get(VARIABLES["token"]) != record.get("token"):
            return False
        if (found := self._listing.find(nonce)) is not None:
            found.process.signal("KILL")
        return True

    def _ended(self, message: Mapping[str, Any]) -> None:
        """Take an end from the thread that reads, which must go on."""
        if not self._finishes.take(message["nonce"], message["variables"], message["code"]):
            with contextlib.suppress(RuntimeError):  # closed: its file keeps the end
                self._ends.submit(self._report, message)

    def _report(self, message: Mapping[str, Any]) -> None:
        nonce, instance = message["nonce"], message["instance"]
        self._output.ended(nonce)
        try:
            started = self._started.pop(nonce)
            record = parse_record(message["variables"])
            # The process may have gone on to another attempt.
            if started and started.is_same(record):
                record = started.record
            attempt = Attempt.of(record)
            freed = self._on_end(RunningAttempt(attempt, instance), _end(message["code"]))
            if freed and (printed := last_bytes(self._runtime.output(nonce))):
                self._keep_log(attempt, printed)
            if self._whole_logs is not None:  # an end that is told twice may be of a crash between
                self._whole_logs.keep(attempt, OutputLog(self._runtime.output(nonce)))
            if freed:
                self._runtime.end(nonce).unlink(missing_ok=True)
        except Exception as exc:  # its file keeps the end, and a watcher finds it there
            self._steps.failed("exit", exc, job=instance)
        else:
            self._steps.succeeded("exit", job=instance)

    def _gpu(self, record: Record) -> dict[str, str]:
        if record["gpu_class"] == CHORDS:
            return NO_GPU
        gpus, given = gpus_of(record), devices_of(record)
        if not gpus and given:  # an older version notes no places
            dealt = self._devices.get(record["gpu_class"], ())
            gpus = [dealt[index] for index in given] if max(given) < len(dealt) else []
        return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}


def _end(code: int | None) -> End:
    end = explain(code)
    return end if code is None else replace(end, evidence={"exit_code": code})
