"""A stack: one Redis, dispatchers, the application's own worker, and the application as its callers
have it.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import celery._state
import psutil
import redis
from celery import Celery

from gpuqueue.model.record import Record
from gpuqueue.store.reader import Reader
from tests.doubles.kubernetes import Cluster
from tests.support.launching import (
    KUBERNETES,
    LOCAL,
    ClusterLaunching,
    Launching,
    LocalLaunching,
    process_of,
)
from tests.support.nodes import APPS, WorkerNode, executors_of, redis_node, worker_node
from tests.support.runners import end_runners
from tests.support.waiting import PATIENCE, until

CLASSES = ("t4", "refused")
S = TypeVar("S", bound="Stack")


class Stack:
    """Everything of one Redis. ``env`` is what its dispatchers get beside the usual; ``kind`` where
    its attempts run.
    """

    def __init__(
        self,
        directory: Path,
        env: dict[str, str] | None = None,
        app: str = "shop",
        kind: str = LOCAL,
        **cluster: Any,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.kind = kind
        self.redis = redis_node(directory / "redis")
        self.url = self.redis.container.url
        self.client = redis.Redis.from_url(
            self.url, decode_responses=True, socket_timeout=PATIENCE + 10
        )
        self.reader = Reader(self.client)
        self.workers: list[WorkerNode] = []
        self.launching: Launching = (
            ClusterLaunching(directory, self.url, env or {}, **cluster)
            if kind == KUBERNETES
            else LocalLaunching(self.url)
        )
        usual = {
            "CELERY_BROKER_URL": self.url,
            "GPUQUEUE_APP": app,
            "T4_SHARED_SLOTS": "4",
            **self.launching.env(),
        }
        # Stacks run side by side: each would want the same port.
        self.env = (
            usual | {"GPUQUEUE_GRACE_SECONDS": "3", "GPUQUEUE_METRICS_PORT": "0"} | (env or {})
        )
        self.shop = load_application("shop", self.url)
        self.app: Celery = self.shop.app

    @property
    def server_url(self) -> str:
        """The URL of the server itself."""
        url: str = self.url
        return url

    # -- nodes -------------------------------------------------------------------------------------

    def dispatcher(
        self,
        name: str = "dispatcher",
        *,
        env: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        ready: bool = True,
    ) -> WorkerNode:
        """Start a dispatcher; ``ready=False`` for one that is expected to end at once."""
        command = ["-A", "gpuqueue", "worker", *arguments]
        self.launching.told(env or {})
        node = worker_node(name, command, self.env | (env or {}), self.directory, self.app)
        self.workers.append(node.start())
        if ready:
            node.ready()
            until(
                lambda: f"{name}@test" in self.reader.dispatchers(0),
                PATIENCE,
                f"{name} has announced itself",
                node.logs,
            )
        return node

    def cpu_worker(self, name: str = "cpu", *, processes: int = 2) -> WorkerNode:
        """Start the application's own worker, plain Celery."""
        command = ["-A", self.env["GPUQUEUE_APP"], "worker", "-Q", "celery", "-c", str(processes)]
        node = worker_node(name, command, self.env, self.directory, self.app)
        self.workers.append(node.start())
        node.ready()
        return node

    def executors(self) -> list[psutil.Process]:
        """Executors at work."""
        return executors_of(self.url)

    def process_of(self, record: Record) -> psutil.Process:
        """The process that runs a job's newest attempt."""
        return process_of(self.url, record)

    @property
    def cluster(self) -> Cluster:
        """The double of the API, where this stack has one."""
        assert isinstance(self.launching, ClusterLaunching)
        return self.launching.cluster

    def close(self) -> None:
        """End everything, jobs included."""
        with ThreadPoolExecutor(max(1, len(self.workers))) as pool:
            list(pool.map(WorkerNode.stop, self.workers))
        self.launching.close()
        end_runners(self.url)
        for executor in self.executors():
            executor.kill()
            executor.wait(PATIENCE)
        self.app.close()
        self.client.close()
        self.redis.teardown()

    def logs(self) -> dict[str, str]:
        """What each node has written."""
        return {node.name(): node.logs() for node in [*self.workers, self.redis]}

    def log_sizes(self) -> dict[str, int]:
        """How much that is, to tell what came later."""
        return {name: len(text) for name, text in self.logs().items()}

    # -- what tasks tell ---------------------------------------------------------------------------

    def told(self, key: str, timeout: float = PATIENCE) -> Any:
        """Wait for the next thing that tasks tell under a key."""
        found = self.client.blpop([f"told:{key}"], timeout=timeout)
        assert found is not None, f"no task reported under {key} within {timeout} s"
        return json.loads(found[1])

    def told_so_far(self, key: str) -> list[Any]:
        """Everything told under a key and not yet taken."""
        return [json.loads(each) for each in self.client.lrange(f"told:{key}", 0, -1)]

    def go(self, key: str, times: int = 1) -> None:
        """Let tasks that hold on a key go on."""
        self.client.rpush(f"go:{key}", *["go"] * times)

    # -- what the queue knows ----------------------------------------------------------------------

    def record(self, job_id: str) -> Record | None:
        """The newest delivery of a job."""
        return self.reader.find(job_id, CLASSES)

    def known(self, job_id: str) -> Record:
        """The same, of a job that a dispatcher has accepted."""
        record = self.record(job_id)
        assert record is not None, f"{job_id} is unknown"
        return record

    def in_state(self, job_id: str, *wanted: str) -> Record:
        """Wait until the job is in one of the states that the store keeps."""
        return until(
            lambda: (
                (found := self.record(job_id)) is not None and found["state"] in wanted and found
            ),
            PATIENCE,
            f"{job_id} is {' or '.join(wanted)}",
            lambda: str(self.record(job_id)),
        )

    def holders(self) -> list[str]:
        """Deliveries that hold a slot."""
        return [attempt.delivery for attempt, _ in self.reader.holders("t4")]

    def idle(self) -> None:
        """Wait until no job holds a slot."""
        until(
            lambda: not self.holders(), PATIENCE, "all slots are free", lambda: str(self.holders())
        )


@contextmanager
def listed(stacks: list[Stack], made: S) -> Iterator[S]:
    """List a stack while it runs, so that a failed test shows its logs; then end it."""
    stacks.append(made)
    try:
        yield made
    finally:
        stacks.remove(made)
        made.close()


@contextmanager
def importing_by_itself(
    stack: Stack, stacks: list[Stack], directory: Path, env: dict[str, str], app: str
) -> Iterator[Stack]:
    """A stack whose executors import the application, each by itself, with a dispatcher. Those of a
    stack of pods do so anyway.
    """
    if stack.kind != LOCAL:
        yield stack
        return
    spawning = {**env, "GPUQUEUE_START": "spawn"}
    with listed(stacks, Stack(directory, spawning, app, LOCAL)) as made:
        made.dispatcher()
        yield made


def load_application(name: str, url: str) -> ModuleType:
    """Import a fresh copy of an application, for one Redis. Its errors are everybody's: they live
    in another module.
    """
    spec = importlib.util.spec_from_file_location(name, APPS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before_tasks = set(celery._state._on_app_finalizers)
    before = os.environ.get("CELERY_BROKER_URL")
    os.environ["CELERY_BROKER_URL"] = url
    try:
        spec.loader.exec_module(module)
    finally:
        del os.environ["CELERY_BROKER_URL"]
        if before is not None:
            os.environ["CELERY_BROKER_URL"] = before
    module.app.finalize()
    # Celery would hand this copy's tasks on to every app that is made later, the next copy of the
    # same included.
    celery._state._on_app_finalizers.difference_update(
        set(celery._state._on_app_finalizers) - before_tasks
    )
    module.app.conf.broker_url  # read once, before anybody changes the environment
    return module
