"""Redis and dispatchers as processes, each of which can be told at which step to die."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from celery import Celery

from gpuqueue.embedded import EmbeddedRedis
from gpuqueue.store.client import connect
from gpuqueue.store.read import Reader

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: Everything that may happen after a crash has happened within this many seconds here.
PATIENCE = 45.0


def eventually(condition, what, seconds=PATIENCE):
    """Wait until ``condition()`` is true, and answer it."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Cluster:
    """One Redis, and dispatchers of the application ``crashshop``."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.notes = directory / "notes"
        self.notes.touch()
        self.mark = directory / "crashed"
        self.redis = EmbeddedRedis(directory / "redis")
        self.redis.start()
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GPU", "CELERY", "T4_", "MIG_"))},
            "CELERY_BROKER_URL": self.redis.url,
            "CELERY_RESULT_BACKEND": self.redis.url,
            "GPUQUEUE_APP": "crashshop",
            "CRASHSHOP_NOTES": str(self.notes),
            "PYTHONPATH": os.pathsep.join(map(str, (HERE / "inject", HERE / "app", ROOT))),
            # Short clocks: what a crash costs is then seconds, and the tests stay quick.
            "GPUQUEUE_REPAIR_SECONDS": "1",
            "GPUQUEUE_RELIST_SECONDS": "0.5",
            "GPUQUEUE_TICK_SECONDS": "0.2",
            "GPUQUEUE_LEASE_SECONDS": "1",
            "GPUQUEUE_VISIBILITY_SECONDS": "2",
            "GPUQUEUE_GRACE_SECONDS": "1",
            **settings,
        }
        self.client = Celery("crashshop", broker=self.redis.url, backend=self.redis.url)
        self.client.conf.task_routes = {"crashshop.*": {"queue": "gpu.t4.shared"}}
        self.connection = connect(self.redis.url)
        self.reader = Reader(self.connection)
        self.processes: list[subprocess.Popen] = []

    def dispatcher(self, name="one", crash=None):
        """Start a dispatcher; ``crash`` names the step at which it, or an executor of its, dies."""
        env = self.env | ({"CRASH_AT": crash, "CRASH_MARK": str(self.mark)} if crash else {})
        log = (self.directory / f"{name}.log").open("ab")
        command = [sys.executable, "-m", "celery", "-A", "gpuqueue", "worker", "-l", "info", "-n", f"{name}@test"]
        command += ["--without-mingle", "--without-gossip", "-Q", "gpu.t4.shared,gpu.t4.exclusive"]
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        self.processes.append(process)
        return process

    def send(self, task, *args, queue="gpu.t4.shared", **options):
        return self.client.send_task(f"crashshop.{task}", args, queue=queue, **options)

    def noted(self):
        return self.notes.read_text().split("\n")[:-1]

    def records(self):
        return list(self.reader.all_records("t4"))

    def is_idle(self):
        """No slot held, nobody in line, nothing half-done, every job ended and its message gone."""
        todo = self.reader.todo("t4", time.time() + 3600)
        states = {record["state"] for record in self.records()}
        return (
            not self.reader.holders("t4")
            and not (todo.accepted or todo.finishing or todo.launching or todo.stopping)
            and states <= {"ended"}
            and not self.connection.hlen("gpuqueue:1:{t4}:messages")
        )

    def crashed(self):
        return self.mark.exists()

    def logs(self):
        return "\n".join(f"--- {log.name}\n{log.read_text()[-6000:]}" for log in sorted(self.directory.glob("*.log")))

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if each.environ().get("GPUQUEUE_REDIS_URL") == self.redis.url:
                    each.kill()
        self.connection.close()
        self.client.close()
        self.redis.stop()
