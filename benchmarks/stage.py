"""The stage of a benchmark: one separate Redis, and dispatchers and plain Celery workers as
processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from celery import Celery

from benchmarks.harness import until
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import Redis, connect
from gpuqueue.store.reader import Reader

ROOT = Path(__file__).resolve().parents[1]
_FOREIGN = ("GPU", "CELERY", "T4_", "MIG_", "BENCH_")
QUIET = ("--without-mingle", "--without-gossip", "-l", "warning")


class Stage:
    """A context manager that ends all its processes."""

    def __init__(self, **settings: str) -> None:
        self._settings = settings
        self._made = tempfile.TemporaryDirectory(prefix="gpuqueue-bench-")
        self.directory = Path(self._made.name)
        self.redis = EmbeddedRedis(self.directory / "redis")
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.redis.start()
        self.client: Redis = connect(self.url())
        self.reader = Reader(self.client)
        self.app = self.celery()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            for log in sorted(self.directory.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._end_executors()
        self.app.close()
        self.client.close()
        self.redis.stop()
        self._made.cleanup()

    def _end_executors(self) -> None:
        """End executors too: a job outlives its dispatcher. They are identified by the address of
        this Redis, which no other process uses.
        """
        for process in psutil.process_iter():
            try:
                if process.environ().get("GPUQUEUE_REDIS_URL") == self.url():
                    process.kill()
            except psutil.Error:
                continue

    def url(self, db: int = 0) -> str:
        """Return the address of one of the databases."""
        return f"{self.redis.url.rpartition('/')[0]}/{db}"

    def celery(self, broker: int = 0, backend: int = 0) -> Celery:
        """Make a client application like that of a caller."""
        return Celery("bench", broker=self.url(broker), backend=self.url(backend))

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of processes: that of this process without foreign settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        usual = {
            "CELERY_BROKER_URL": self.url(),
            "CELERY_RESULT_BACKEND": self.url(),
            "GPUQUEUE_APP": "benchmarks.app",
        }
        return {
            **kept,
            **usual,
            "GPUQUEUE_DEVICES": "none",
            "PYTHONPATH": str(ROOT),
            **self._settings,
            **more,
        }

    def dispatcher(self, *queues: str, name: str = "dispatcher", **env: str) -> psutil.Process:
        """Start a dispatcher and wait until it consumes."""
        names = ",".join(queues or ("gpu.t4.shared", "gpu.t4.exclusive"))
        return self._worker(name, "gpuqueue", names, (), env)

    def worker(
        self, queue: str, pool: str, concurrency: int, *, backend: int = 0, **env: str
    ) -> psutil.Process:
        """Start a plain Celery worker of :mod:`benchmarks.app` and wait until it consumes."""
        options = ("-P", pool, "-c", str(concurrency))
        return self._worker(
            queue,
            "benchmarks.app",
            queue,
            options,
            {"CELERY_RESULT_BACKEND": self.url(backend), **env},
        )

    def _worker(
        self, name: str, app: str, queues: str, options: tuple[str, ...], env: dict[str, str]
    ) -> psutil.Process:
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            app,
            "worker",
            *QUIET,
            "-n",
            f"{name}@bench",
            "-Q",
            queues,
            *options,
        ]
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=self.environment(**env),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)

        def consumes() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with status {process.returncode} while starting")
            bound = self.client.smembers(f"_kombu.binding.{queues.partition(',')[0]}")
            return bool(bound) and self._answers(f"{name}@bench")

        until(consumes, f"{name} consumes", 60, 0.05)
        return psutil.Process(process.pid)

    def _answers(self, worker: str) -> bool:
        return bool(
            self.app.control.broadcast(
                "ping", destination=[worker], reply=True, timeout=0.5, limit=1
            )
        )
