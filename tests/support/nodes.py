"""pytest-celery's nodes, as processes in place of containers: a Redis, dispatchers, and the
application's own worker.

A node is used as pytest-celery documents it (``ready``, ``logs``, ``kill``, ``restart``,
``assert_log_exists``); what it wraps is :class:`ProcessContainer` instead of a Docker container.
"""

from __future__ import annotations

import os
import signal as signals
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from celery import Celery
from pytest_celery import CeleryTestWorker, RedisContainer, RedisTestBroker
from pytest_celery.vendors.worker.container import CeleryWorkerContainer

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.support.forking import Forked, start_forked
from tests.support.waiting import PATIENCE, until

APPS = Path(__file__).parent / "apps"
#: Modules that stand in for NVML and torch, for a child's PYTHONPATH.
FAKE_GPUS = Path(__file__).parent / "fake_gpus"
#: How long a node may take to start on a busy machine, and to end.
START, STOP = PATIENCE, 8.0


class ProcessContainer(CeleryWorkerContainer):
    """What pytest-celery calls of a container, for a process in a new session with a log file."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], directory: Path) -> None:
        self._name, self.argv, self.environment, self._directory = name, command, env, directory
        self.log_file = directory / f"{name}.log"
        self._popen: subprocess.Popen[bytes] | Forked | None = None
        self._log_start = 0

    @property
    def id(self) -> str:
        return self._name

    @property
    def name(self) -> str:
        return self._name

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    @property
    def status(self) -> str:
        if self._popen is None:
            return "created"
        return "running" if self._popen.poll() is None else "exited"

    @property
    def exit_code(self) -> int | None:
        return self._popen.poll() if self._popen else None

    def start(self) -> None:
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        path = os.pathsep.join(filter(None, [str(APPS), os.environ.get("PYTHONPATH", "")]))
        env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **self.environment}
        env.pop("PYTEST_CURRENT_TEST", None)  # it changes during a test, as no environment does
        with self.log_file.open("ab") as log:
            if self._can_be_forked(env):
                _, _, module, *words = self.argv
                output = log.fileno(), log.fileno()
                self._popen = start_forked(
                    module, words, env=env, cwd=self._directory, output=output
                )
                return
            self._popen = subprocess.Popen(
                self.argv,
                cwd=self._directory,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _can_be_forked(self, env: dict[str, str]) -> bool:
        """Whether it runs a module of this checkout: another folder of PYTHONPATH may replace
        modules that :mod:`tests.support.forking` does not import again.
        """
        usual = {str(APPS), str(FAKE_GPUS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
        paths = set(env["PYTHONPATH"].split(os.pathsep))
        return self.argv[:2] == [sys.executable, "-m"] and paths <= usual

    def logs(self) -> str:
        """What this run of the process has written."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def reload(self) -> None:
        """Nothing to fetch: there is no daemon between us and the process."""

    def ready(self) -> bool:
        until(
            lambda: "ready." in self.logs() or self.status == "exited",
            START,
            f"{self.name} is ready",
            self.logs,
        )
        assert self.status == "running", (
            f"{self.name} ended with status {self.exit_code}:\n{self.logs()}"
        )
        return True

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Signal the process, and see it end."""
        assert self._popen is not None
        self._popen.send_signal(getattr(signals, signal) if isinstance(signal, str) else signal)
        self._popen.wait(STOP)

    def restart(self, timeout: float = STOP) -> None:
        self.stop()
        self.start()
        self.ready()

    def stop(self) -> None:
        """End it as an operator would; what does not end is killed with its children."""
        if self._popen is None:
            return
        self._popen.terminate()
        try:
            self._popen.wait(STOP)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self._popen.pid, signals.SIGKILL)
        except ProcessLookupError:
            pass
        self._popen.wait()

    teardown = stop

    def exec_run(self, command: list[str]) -> tuple[int, bytes]:
        """Run another command beside it, in its environment."""
        env = {**os.environ, "PYTHONPATH": str(APPS), **self.environment}
        done = subprocess.run(
            command, cwd=self._directory, env=env, capture_output=True, timeout=START
        )
        return done.returncode, done.stdout + done.stderr


class RedisProcess(RedisContainer):
    """The embedded Redis, as pytest-celery's Redis container."""

    def __init__(self, directory: Path) -> None:
        self.server = EmbeddedRedis(directory).start()

    name = id = "redis"

    @property
    def status(self) -> str:
        try:
            return "running" if self.server.pid else "exited"
        except Exception:
            return "exited"

    @property
    def url(self) -> str:
        return self.server.url

    host_url = url
    hostname = "127.0.0.1"

    @property
    def port(self) -> int:
        return int(self.server.url.rpartition(":")[2].partition("/")[0])

    def logs(self) -> str:
        assert self.server.directory is not None
        return (self.server.directory / "redis.log").read_text(errors="replace")

    def reload(self) -> None:
        """Nothing to fetch."""

    def ready(self) -> bool:
        return self.status == "running"

    def kill(self, signal: str | int = "SIGKILL") -> None:
        self.server.kill()

    def restart(self, timeout: float = STOP) -> None:
        self.server.restart()

    def teardown(self) -> None:
        self.server.stop()


class WorkerNode(CeleryTestWorker):
    """A Celery worker as a process: a dispatcher, or the application's own."""

    container: ProcessContainer

    def start(self) -> WorkerNode:
        self.container.start()
        return self

    def stop(self) -> None:
        self.container.stop()

    @property
    def pid(self) -> int:
        return self.container.pid

    def hostname(self) -> str:
        return f"{self.name()}@test"


def redis_node(directory: Path) -> RedisTestBroker:
    return RedisTestBroker(RedisProcess(directory))


def worker_node(
    name: str, arguments: list[str], env: dict[str, str], directory: Path, app: Celery | None
) -> WorkerNode:
    quick = ["--without-gossip", "--without-mingle", "--loglevel=INFO", "-n", f"{name}@test"]
    command = [sys.executable, "-m", "celery", *arguments, *quick]
    return WorkerNode(ProcessContainer(name, command, env, directory), app)


def executors_of(url: str) -> list[psutil.Process]:
    """Executors that work for this Redis, dispatchers dead or alive; process 1 of a pod that has
    not forked one yet, too.
    """
    found: dict[int, tuple[psutil.Process, int, bool]] = {}
    for process in psutil.process_iter():
        try:
            env: dict[str, Any] = process.environ()
            urls = (env.get("GPUQUEUE_REDIS_URL"), env.get("CELERY_BROKER_URL"))
            if "GPUQUEUE_TOKEN" in env and url in urls and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process, process.ppid(), "GPUQUEUE_POD_UID" in env
        except psutil.Error:
            continue
    # A runner is the only process of its pod without a parent there.
    runners = {
        parent
        for _, parent, is_pod in found.values()
        if is_pod and parent in found and found[parent][1] not in found
    }
    return [process for pid, (process, *_) in found.items() if pid not in runners]
