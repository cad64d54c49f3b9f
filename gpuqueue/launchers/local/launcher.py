"""The local launcher: each attempt is a process of this machine, in its own session."""

from __future__ import annotations

import builtins
import contextlib
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import psutil

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.launchers.base import LauncherClosed, OnEnd
from gpuqueue.launchers.local.exits import Exits
from gpuqueue.launchers.local.process import (
    environment,
    host_of,
    is_orphan,
    is_running,
    leads_session,
    pid_of,
    send_signal,
    spawn,
)
from gpuqueue.model.attempt import Attempt, LiveAttempt, RunningAttempt
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.ends import End, explain
from gpuqueue.model.executor_env import (
    FINISHER,
    INSTANCE,
    VARIABLES,
    parse_record,
    record_variables,
)
from gpuqueue.model.place import Site
from gpuqueue.model.record import Record

#: Seconds that a killed stray process has to end.
STRAY_ENDS_WITHIN = 5.0


class LocalLauncher:
    """Starts executors as processes.

    Args:
        on_end: called with each end, from the thread that watches processes.
        claim_within: seconds from the launch until an executor must have claimed its attempt.
        settings: environment of every executor (broker, backend, application).
        devices: class → its GPUs, as UUIDs or indexes for CUDA_VISIBLE_DEVICES.
        host_lives: whether another host still has a dispatcher. A restarted container may have a
            new host name.
        command: the command of the executor.
    """

    owner = ""
    #: Each one starts a Python process, and the jobs need the CPU of a GPU machine.
    finishers = 2

    def __init__(
        self,
        on_end: OnEnd,
        settings: Mapping[str, str],
        claim_within: float,
        devices: Mapping[str, Sequence[str]] | None = None,
        host_lives: Callable[[str], bool] = lambda host: True,
        command: Sequence[str] = (sys.executable, "-m", "gpuqueue.executor"),
    ) -> None:
        self._on_end = on_end
        self.claim_within = claim_within
        self._settings = dict(settings)
        self._devices = devices or {}
        self._host_lives = host_lives
        self._command = list(command)
        self._host = socket.gethostname()
        self.site = Site(self._host, self._settings.get("GPUQUEUE_APP", ""), self._devices)
        self._exits = Exits()
        self._adopted: set[str] = set()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, Record] = {}
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
        attempt = Attempt.of(record)
        self._end_strays(record)
        nonce = f"{self._host}:{secrets.token_hex(8)}"
        process = self._spawn(record, {INSTANCE: nonce, **self._gpu(record)})
        instance = f"{nonce}:{process.pid}"
        self._processes[instance] = process
        self._started[instance] = record
        try:
            self._watch_exit(RunningAttempt(attempt, instance), process.pid)
        except OSError:  # this process has no file descriptor left: the launch has failed
            send_signal(process.pid, "KILL")
            process.wait()
            del self._processes[instance], self._started[instance]
            raise
        return instance

    def stop(self, instance: str, signal: str) -> bool:
        """Send a signal to an attempt, if its pid is still the same process."""
        if not self._is_here(instance):
            return True
        if not is_running(instance):
            return False
        send_signal(pid_of(instance), signal)
        return True

    def abandon(self, record: Record) -> bool:
        """Return True: a process is listed from its start on, so an unlisted one does not run."""
        return True

    def end_of(self, instance: str) -> End | None:
        """Return an end with an unknown cause for a process that is gone.

        An instance of another host counts as running while a dispatcher lives there.
        """
        if self._is_here(instance):
            runs = is_running(instance)
        else:
            runs = self._host_lives(host_of(instance))
        return None if runs else explain(None)

    def list(self) -> builtins.list[LiveAttempt]:
        """Return the attempts of our Redis among the processes of this machine."""
        found = []
        for pid in psutil.pids():
            env = environment(pid)
            # Children of a task inherit its environment, but only the executor leads its session.
            if VARIABLES["token"] not in env or FINISHER in env or not leads_session(pid):
                continue
            if env.get("GPUQUEUE_REDIS_URL") == self._settings["GPUQUEUE_REDIS_URL"]:
                with contextlib.suppress(KeyError, ValueError):
                    instance = f"{env[INSTANCE]}:{pid}"
                    found.append(LiveAttempt.of(parse_record(env), instance))
        return found

    def watch(self, running: RunningAttempt) -> None:
        """Report the end of an orphan, a process whose dispatcher is gone. May be repeated."""
        if not self._is_here(running.instance) or running.instance in self._adopted:
            return
        pid = pid_of(running.instance)
        if is_orphan(pid):
            self._adopted.add(running.instance)
            self._watch_exit(running, pid)

    def lead(self, leads: bool) -> None:
        """Do nothing: each dispatcher watches its own processes."""

    def check(self, now: float) -> None:
        """Do nothing: a started process does not wait for anything."""

    def finish(
        self, record: Record, finisher: str, timeout: float, wanted: Callable[[], bool]
    ) -> int | None:
        """Run the executor as a finisher, without a GPU.

        Returns its exit status, or None after the timeout.
        """
        process = self._spawn(record, {FINISHER: finisher, "CUDA_VISIBLE_DEVICES": ""})
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(min(1.0, max(0.0, deadline - time.monotonic())))
            if time.monotonic() >= deadline:
                send_signal(process.pid, "KILL")
                process.wait()
                return None
        raise LauncherClosed

    def close(self) -> None:
        """Stop watching. Jobs continue, and another dispatcher adopts them."""
        self._closed.set()
        self._exits.close()
        for instance in list(self._processes):
            self._forget(instance, None)

    def _end_strays(self, record: Record) -> None:
        """Kill the processes of the same delivery with another token that were admitted earlier:
        Redis has come back with an older state. Raises OSError if one does not end.
        """
        strays = [
            instance
            for instance, other in list(self._started.items())
            if other["delivery"] == record["delivery"]
            and other["gpu_class"] == record["gpu_class"]
            and other["token"] != record["token"]
            and other.get("admitted", 0.0) < record.get("admitted", 0.0)
        ]
        for instance in strays:
            self.stop(instance, "KILL")
        deadline = time.monotonic() + STRAY_ENDS_WITHIN
        while any(instance in self._started for instance in strays):
            if time.monotonic() >= deadline:
                raise OSError(f"a process of an attempt with another token runs: {strays[0]}")
            time.sleep(0.02)

    def _spawn(self, record: Record, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return spawn(self._command, {**self._settings, **record_variables(record), **variables})

    def _watch_exit(self, running: RunningAttempt, pid: int) -> None:
        def report(code: int | None) -> None:
            self._adopted.discard(running.instance)
            self._forget(running.instance, code)
            end = explain(code)
            self._on_end(
                running, replace(end, evidence={"exit_code": code}) if code is not None else end
            )

        self._exits.watch(pid, report)

    def _forget(self, instance: str, code: int | None) -> None:
        # subprocess reaps the child of a dropped Popen without a status at the start of the next
        # process, and we would lose the exit status.
        self._started.pop(instance, None)
        process = self._processes.pop(instance, None)
        if process is not None:
            process.returncode = code if code is not None else 0

    def _gpu(self, record: Record) -> dict[str, str]:
        devices, index = self._devices.get(record["gpu_class"], ()), record.get("device")
        return (
            {"CUDA_VISIBLE_DEVICES": devices[index]}
            if index is not None and index < len(devices)
            else {}
        )

    def _is_here(self, instance: str) -> bool:
        return host_of(instance) == self._host
