"""The local launcher: each attempt is a process of this machine, in a session of its own, with the
GPU it was given.

What names an attempt stands in its environment, as it would in the labels of a pod: a dispatcher
that comes later finds it there. An instance is ``host:nonce:pid``; the nonce in the environment
proves that a pid is still the same process.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import secrets
import signal as signals
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import psutil

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.launchers.base import LauncherClosed, OnEnd
from gpuqueue.launchers.local.exits import Exits, environment
from gpuqueue.model.attempt import Attempt, LiveAttempt, RunningAttempt
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.ends import End, explain
from gpuqueue.model.record import Record

_PREFIX = "GPUQUEUE_"
#: Fields of a record that travel in the environment, beside the token.
_LABELS = (
    "delivery",
    "gpu_class",
    "isolation",
    "attempt",
    "device",
    "time_limit",
    "task",
    "tenant",
    "retries",
    "nesting",
)
_NUMBERS = {"attempt": int, "device": int, "time_limit": float, "retries": int, "nesting": int}


class LocalLauncher:
    """Starts executors as processes.

    Args:
        on_end: told of every end, from the watching thread.
        claim_within: seconds from the launch until an executor must have claimed its attempt.
        settings: environment that every executor gets (broker, backend, application).
        devices: class → the GPUs (UUIDs or indexes, as CUDA_VISIBLE_DEVICES takes them) that its
            jobs are dealt.
        host_lives: whether another host, by its name, still has a dispatcher (a container may come
            back under a new name).
        command: what to run; the executor of this Python unless a test says otherwise.
    """

    owner = ""
    #: Each starts a Python process, and machines with a GPU have other work for their cores.
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
        self._exits = Exits()
        self._adopted: set[str] = set()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._closed = threading.Event()

    def check_job(self, record: Record, gpu_class: GpuClass) -> None:
        """Refuse container jobs: there is no container runtime here."""
        if record["task"] == CONTAINER_TASK:
            raise InvalidJob.field(
                "task",
                CONTAINER_TASK,
                "runs a container image, and this dispatcher starts processes",
                "set GPU_EXECUTION_MODE=k8s_job, or send a task of the application",
            )

    def start(self, record: Record) -> str:
        """Start an attempt; see :class:`gpuqueue.launchers.base.Launcher`."""
        nonce = f"{self._host}:{secrets.token_hex(8)}"
        process = self._spawn(
            {**self._labels(record), "GPUQUEUE_INSTANCE": nonce, **self._gpu(record)}
        )
        instance = f"{nonce}:{process.pid}"
        self._processes[instance] = process
        self._watch(RunningAttempt(Attempt.of(record), instance), process.pid)
        return instance

    def stop(self, instance: str, signal: str) -> bool:
        """Signal an attempt, if it still is the process it was."""
        if not self._ours(instance):
            return True
        pid = _pid(instance)
        if not self._alive(instance):
            return False
        number = signals.Signals[f"SIG{signal}"]
        with contextlib.suppress(ProcessLookupError):
            if number == signals.SIGKILL:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        return True

    def abandon(self, record: Record) -> bool:
        """Nothing runs where nothing is listed: a process exists from the moment it is started."""
        return True

    def end_of(self, instance: str) -> End | None:
        """Say that the very process is gone, its end unseen; one of another host runs while a
        dispatcher is heard there.
        """
        return None if self._alive(instance) else explain(None)

    def _alive(self, instance: str) -> bool:
        if not self._ours(instance):
            return self._host_lives(instance.partition(":")[0])
        return environment(_pid(instance)).get("GPUQUEUE_INSTANCE") == instance.rpartition(":")[0]

    def list(self) -> builtins.list[LiveAttempt]:
        """Find attempts of our Redis among this machine's processes."""
        found = []
        for pid in psutil.pids():
            env = environment(pid)
            # Children of a task inherit its environment: the executor is the leader of its session.
            if "GPUQUEUE_TOKEN" not in env or "GPUQUEUE_FINISHER" in env or not _leads_session(pid):
                continue
            if env.get("GPUQUEUE_REDIS_URL") == self._settings["GPUQUEUE_REDIS_URL"]:
                with contextlib.suppress(KeyError, ValueError):
                    found.append(LiveAttempt.of(_record(env), f"{env['GPUQUEUE_INSTANCE']}:{pid}"))
        return found

    def watch(self, running: RunningAttempt) -> None:
        """Be told of the end of a process whose own dispatcher is gone. May be repeated."""
        if not self._ours(running.instance) or running.instance in self._adopted:
            return
        pid = _pid(running.instance)
        starter = environment(pid).get("GPUQUEUE_STARTER")
        with contextlib.suppress(psutil.NoSuchProcess):
            if starter and psutil.Process(pid).ppid() != int(starter):
                self._adopted.add(running.instance)
                self._watch(running, pid)

    def lead(self, leads: bool) -> None:
        """Each dispatcher sees its own processes end, whoever leads."""

    def check(self, now: float) -> None:
        """A process that was started waits for nothing."""

    def finish(
        self, record: Record, finisher: str, timeout: float, wanted: Callable[[], bool]
    ) -> int | None:
        """Run the executor as a finisher, without a GPU; answers its exit status, None past the
        timeout.
        """
        process = self._spawn(
            {**self._labels(record), "GPUQUEUE_FINISHER": finisher, "CUDA_VISIBLE_DEVICES": ""}
        )
        deadline = time.monotonic() + timeout
        while not self._closed.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(min(1.0, max(0.0, deadline - time.monotonic())))
            if time.monotonic() >= deadline:
                os.killpg(process.pid, signals.SIGKILL)
                process.wait()
                return None
        raise LauncherClosed

    def close(self) -> None:
        """Stop watching; running jobs go on, and another dispatcher takes them over."""
        self._closed.set()
        self._exits.close()
        for instance in list(self._processes):
            self._forget(instance, None)

    def _spawn(self, extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
        # A dispatcher that is itself run by a job must not hand its own attempt on.
        inherited = {key: value for key, value in os.environ.items() if key not in _OWN}
        return subprocess.Popen(
            self._command,
            env={**inherited, **self._settings, **extra, "GPUQUEUE_STARTER": str(os.getpid())},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _watch(self, running: RunningAttempt, pid: int) -> None:
        def tell(code: int | None) -> None:
            self._adopted.discard(running.instance)
            self._forget(running.instance, code)
            end = explain(code)
            self._on_end(
                running, replace(end, evidence={"exit_code": code}) if code is not None else end
            )

        self._exits.watch(pid, tell)

    def _forget(self, instance: str, code: int | None) -> None:
        # A Popen that is dropped before it knows its status has subprocess reap the child at the
        # next start of any other, and the status is lost to us.
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

    def _labels(self, record: Record) -> dict[str, str]:
        labels = {_PREFIX + name.upper(): str(record[name]) for name in _LABELS if name in record}  # type: ignore[literal-required]
        return {
            **labels,
            "GPUQUEUE_JOB_ID": record["id"],
            "GPUQUEUE_TOKEN": record.get("token", ""),
        }

    def _ours(self, instance: str) -> bool:
        return instance.partition(":")[0] == self._host


_OWN = {_PREFIX + name.upper() for name in _LABELS} | {
    "GPUQUEUE_JOB_ID",
    "GPUQUEUE_TOKEN",
    "GPUQUEUE_INSTANCE",
    "GPUQUEUE_FINISHER",
    "GPUQUEUE_POD",
    "GPUQUEUE_POD_UID",
    "GPUQUEUE_NODE",
}


def _record(env: Mapping[str, str]) -> Record:
    record: Any = {
        name: env[_PREFIX + name.upper()] for name in _LABELS if _PREFIX + name.upper() in env
    }
    record |= {name: convert(record[name]) for name, convert in _NUMBERS.items() if name in record}
    record |= {"id": env["GPUQUEUE_JOB_ID"], "token": env["GPUQUEUE_TOKEN"]}
    return record  # type: ignore[no-any-return]


def _pid(instance: str) -> int:
    return int(instance.rpartition(":")[2])


def _leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except (ProcessLookupError, PermissionError):
        return False
