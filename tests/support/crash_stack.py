"""A stack of the application ``crashshop``, whose dispatchers and executors can be told at which
step to die.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.result import AsyncResult

from gpuqueue.model.record import Record
from tests.support.nodes import APPS, WorkerNode
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until

#: The folder of a ``sitecustomize`` that kills its process at the step named by CRASH_AT.
INJECTION = Path(__file__).parent / "crash_injection"
#: Short clocks: what a crash costs is then seconds, and the tests stay quick.
CLOCKS = {
    "GPUQUEUE_REPAIR_SECONDS": "1",
    "GPUQUEUE_RELIST_SECONDS": "0.5",
    "GPUQUEUE_TICK_SECONDS": "0.2",
    "GPUQUEUE_LEASE_SECONDS": "1",
    "GPUQUEUE_VISIBILITY_SECONDS": "2",
    "GPUQUEUE_GRACE_SECONDS": "1",
    "GPUQUEUE_FINISH_SECONDS": "2",
}


class CrashStack(Stack):
    """One Redis, and dispatchers of ``crashshop``, which leaves a line in ``notes`` whenever its
    code runs.
    """

    def __init__(self, directory: Path, kind: str) -> None:
        self.notes = directory / "notes"
        self.mark = directory / "crashed"
        directory.mkdir(exist_ok=True)
        self.notes.touch()
        paths = os.pathsep.join(map(str, (INJECTION, APPS)))
        super().__init__(
            directory,
            CLOCKS | {"CRASHSHOP_NOTES": str(self.notes), "PYTHONPATH": paths},
            app="crashshop",
            kind=kind,
        )
        # Else the application finishes what ends before a pod of it is known.
        self.env["CELERY_RESULT_BACKEND"] = self.url
        self.sent: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {}
        self.sender = Celery("crashshop", broker=self.url, backend=self.url)

    def start(self, name: str = "one", crash: str | None = None) -> WorkerNode:
        """Start a dispatcher; ``crash`` names the step at which it, or an executor of its, dies."""
        env = {"CRASH_AT": crash, "CRASH_MARK": str(self.mark)} if crash else {}
        queues = ("-Q", "gpu.t4.shared,gpu.t4.exclusive")
        return self.dispatcher(name, env=env, arguments=queues, ready=False)

    def send(
        self, task: str, *args: Any, queue: str = "gpu.t4.shared", **options: Any
    ) -> AsyncResult:
        result = self.sender.send_task(f"crashshop.{task}", args, queue=queue, **options)
        self.sent[result.id] = (task, args, {"queue": queue, **options})
        return result

    def noted(self) -> list[str]:
        return self.notes.read_text().split("\n")[:-1]

    def records(self) -> list[Record]:
        return list(self.reader.all_records("t4"))

    def is_idle(self) -> bool:
        """No slot held, no job in line, nothing half-done, every job ended and its message gone."""
        todo = self.reader.todo("t4", time.time() + 3600)
        return (
            not self.holders()
            and not (todo.accepted or todo.finishing or todo.stopping)
            and {record["state"] for record in self.records()} <= {"ended"}
            and not self.client.hlen("gpuqueue:1:{t4}:messages")
        )

    def died(self, worker: WorkerNode) -> int:
        """The exit status of a dispatcher, once it has one."""
        until(lambda: worker.container.exit_code is not None, PATIENCE, "the dispatcher's death")
        status = worker.container.exit_code
        assert status is not None
        return status

    def close(self) -> None:
        self.sender.close()
        super().close()
