"""A stack whose processes each have their own Redis URL: dispatcher, executors, the application's
worker and client, Flower.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.doubles.kubernetes import Cluster, Image
from tests.security.client import Client
from tests.support.command_line import run_command
from tests.support.endpoints import free_port
from tests.support.launching import IMAGE, PACE
from tests.support.nodes import APPS, ProcessContainer
from tests.support.waiting import PATIENCE, until


class SecuredStack:
    """A context manager. ``urls`` has an address for each of USERS.

    Args:
        folder: for logs, and for what the application's tasks tell.
        urls: who → the address told to it; one name, ``all``, stands for those not named.
        cluster: whether executors are pods, which read their own Secret; else they inherit the
            environment of their dispatcher.
        dispatcher: more settings of dispatchers.
        application: more environment of the application, wherever it runs.
    """

    def __init__(
        self,
        folder: Path,
        urls: Mapping[str, str],
        *,
        cluster: bool = False,
        dispatcher: Mapping[str, str] | None = None,
        application: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._urls = urls
        self._with_cluster = cluster
        self._settings = dict(dispatcher or {})
        self.application = {
            "LEDGER_FOLDER": str(folder),
            "PYTHONPATH": str(APPS),
            **(application or {}),
        }
        self._stack = ExitStack()
        self.nodes: dict[str, ProcessContainer] = {}

    def __enter__(self) -> SecuredStack:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.env = {
            "CELERY_BROKER_URL": self.url("dispatcher"),
            "GPUQUEUE_APP": "ledger",
            "T4_SHARED_SLOTS": "4",
            "GPUQUEUE_GRACE_SECONDS": "3",
            "GPUQUEUE_VISIBILITY_SECONDS": "2",
            "GPUQUEUE_METRICS_PORT": str(free_port()),
            **(
                self._in_cluster()
                if self._with_cluster
                else {"GPUQUEUE_DEVICES": "none", **self.application}
            ),
            **self._settings,
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for node in reversed(self.nodes.values()):
            node.stop()
        self._stack.close()

    def url(self, who: str) -> str:
        """The Redis URL of a process."""
        return self._urls.get(who) or self._urls["all"]

    def _in_cluster(self) -> dict[str, str]:
        self.cluster = self._stack.enter_context(
            Cluster(self.folder / "cluster", pace=PACE, bookmarks=1.0)
        )
        self.cluster.images[IMAGE] = Image(env=self.application, cwd=str(self.folder))
        self.cluster.secret("executors", {"CELERY_BROKER_URL": self.url("executor")})
        return {
            "GPU_EXECUTION_MODE": "k8s_job",
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "GPU_EXECUTOR_IMAGE": IMAGE,
            "GPU_SECRET_NAME": "executors",
        }

    def start(
        self, name: str, words: list[str], env: Mapping[str, str], *, ready: bool = True
    ) -> ProcessContainer:
        """Start ``celery`` with some words."""
        node = ProcessContainer(
            name, [sys.executable, "-m", "celery", *words], dict(env), self.folder
        )
        self.nodes[name] = node
        node.start()
        if ready:
            node.ready()
        return node

    def dispatcher(
        self, *, ready: bool = True, env: Mapping[str, str] | None = None
    ) -> ProcessContainer:
        """Start a dispatcher, with all that Celery's workers do by default."""
        words = ["-A", "gpuqueue", "worker", "--loglevel=INFO", "-n", "dispatcher@test"]
        return self.start("dispatcher", words, self.env | dict(env or {}), ready=ready)

    def worker(self) -> ProcessContainer:
        """Start the application's own worker."""
        env = {**self.application, "CELERY_BROKER_URL": self.url("worker")}
        return self.start(
            "worker",
            ["-A", "ledger", "worker", "-c", "2", "--loglevel=INFO", "-n", "worker@test"],
            env,
        )

    def flower(self) -> str:
        """Start Flower; answers where."""
        port = free_port()
        options = {name: self._settings[name] for name in self._settings if "_OPTIONS" in name}
        env = {
            "CELERY_BROKER_URL": self.url("flower"),
            "FLOWER_UNAUTHENTICATED_API": "true",
            **options,
        }
        words = ["-A", "gpuqueue", "flower", "--address=127.0.0.1", f"--port={port}"]
        node = self.start("flower", words, env, ready=False)
        page = f"http://127.0.0.1:{port}"
        until(lambda: fetch(page, "/healthcheck") == b"OK", PATIENCE, "Flower answers", node.logs)
        return page

    def client(self) -> Client:
        """Start a client of the application."""
        return self._stack.enter_context(
            Client({**self.application, "CELERY_BROKER_URL": self.url("client")}, self.folder)
        )

    def command(
        self, *words: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``gpuqueue`` beside the dispatcher, as its user."""
        told = {**os.environ, **self.env, **(env or {})}
        return run_command(words, env=told, cwd=self.folder)

    def log_of_a_failed_launch(self) -> str:
        """Send a job whose executor cannot use Redis; answers the log that is kept of it."""
        job, text = self.client().do(
            """
result = ledger.gpu_double.delay(1)
try:
    result.get(timeout=40)
except Exception as exc:
    answer = result.id, f"{type(exc).__name__}: {exc}"
"""
        )
        assert "LaunchFailed" in text and "exit code 78" in text
        log: str = until(
            lambda: self.command("logs", job).stdout, PATIENCE, "its log is kept", self.logs
        )
        return log

    def told(self, key: str, count: int = 1) -> list[Any]:
        """Wait for so many things that tasks tell under a key."""
        path = self.folder / key

        def lines() -> list[str]:
            return path.read_text().splitlines() if path.exists() else []

        until(lambda: len(lines()) >= count, PATIENCE, f"{count} told under {key}", self.logs)
        return [json.loads(line) for line in lines()]

    def go(self, key: str) -> None:
        """Let a task that waits go on."""
        (self.folder / f"{key}.go").touch()

    def logs(self) -> str:
        """What every process wrote, pods included."""
        nodes = [f"--- {name}\n{node.logs()}" for name, node in self.nodes.items()]
        return "\n".join(
            [*nodes, *(path.read_text() for path in self.folder.glob("cluster/pods/**/*.log"))]
        )


def fetch(page: str, path: str, data: bytes | None = None) -> bytes:
    """What Flower answers; nothing while it is not up."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(page + path, data), timeout=PATIENCE
        ) as answer:
            body: bytes = answer.read()
            return body
    except OSError:
        return b""
