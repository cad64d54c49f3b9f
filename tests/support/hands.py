"""Attempts made by hand, and their executors as a launcher starts them: with an environment that
holds what a manifest says and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from typing import Any

from celery import Celery

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.job import Job
from gpuqueue.model.record import Record
from gpuqueue.store.client import connect
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.support.command_line import run_command
from tests.support.nodes import APPS
from tests.support.waiting import PATIENCE, until

T4 = GpuClass("t4", shared_slots=100)
INSTANCE = "gpu/gpu-where-1"
COMMAND = [sys.executable, "-m", "gpuqueue.executor"]


class Hands:
    """Makes attempts, starts their executors, and reads what became of them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = connect(url)
        self.line, self.reader = Line(self.client), Reader(self.client)
        self.line.open("t4")
        self.app = Celery("by-hand", broker=url, backend=url)

    def attempt(self, task: str, *args: Any, **fields: Any) -> Record:
        """Accept a call of a task, and make it a holder. ``fields``: of its :class:`Job`."""
        job, message = self._sent(task, *args, **fields)
        assert self.line.accept("t4", job.record(), message) == "accepted"
        [granted] = self.line.enqueue(T4, job.delivery)
        return granted

    def accepted(self, task: str, *args: Any, slots: GpuClass = T4, **fields: Any) -> Record:
        """Accept a call of a task, as a dispatcher does; what it grants is left."""
        job, message = self._sent(task, *args, **fields)
        assert self.line.take_in(slots, job.record(), message).outcome == "accepted"
        return self.kept(job.record())

    def _sent(self, task: str, *args: Any, **fields: Any) -> tuple[Job, str]:
        job = Job(str(uuid.uuid4()), task, "t4", "shared", **fields)
        sent = self.app.amqp.as_task_v2(job.id, task, args=args)
        message = {
            "headers": sent.headers,
            "body": json.dumps(sent.body),
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "properties": {"correlation_id": job.id},
            "delivery_info": {"exchange": "", "routing_key": "gpu.t4.shared"},
        }
        return job, json.dumps(message)

    def environment(self, record: Record) -> dict[str, str]:
        """What the launcher of an attempt sets."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(filter(None, [str(APPS), os.environ.get("PYTHONPATH")])),
            "CELERY_BROKER_URL": self.url,
            "GPUQUEUE_APP": record["task"].partition(".")[0],
            "GPUQUEUE_JOB_ID": record["id"],
            "GPUQUEUE_DELIVERY": record["delivery"],
            "GPUQUEUE_GPU_CLASS": "t4",
            "GPUQUEUE_ATTEMPT": str(record["attempt"]),
            "GPUQUEUE_TOKEN": record["token"],
            "GPUQUEUE_INSTANCE": INSTANCE,
        }

    def run(
        self, record: Record, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the executor of an attempt to its end, without the time that imports take."""
        told = self.environment(record) | (env or {})
        return run_command([], env=told, timeout=PATIENCE, module="gpuqueue.executor")

    def start(self, record: Record, env: dict[str, str], **how: Any) -> subprocess.Popen[str]:
        """Start it as a pod does; ``how``: as ``subprocess.Popen`` takes it."""
        return subprocess.Popen(
            COMMAND,
            env=self.environment(record) | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **how,
        )

    def next_attempt(self, record: Record, end: End) -> Record:
        """Release an attempt that has ended; return the next one, once its pause is over."""
        self.line.release(T4, Attempt.of(record), end, self.kept(record)["instance"])

        def granted() -> list[Record]:
            self.line.tick("t4")
            return self.line.admit(T4)

        [found] = until(granted, PATIENCE, "it is tried again", lambda: str(self.kept(record)))
        return found

    def kept(self, record: Record) -> Record:
        found = self.reader.record("t4", record["delivery"])
        assert found
        return found
