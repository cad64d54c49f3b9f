"""The executor as a pod starts it: by hand, with an environment that holds what a manifest says and
nothing else.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import EXIT_DEVICE
from gpuqueue.model.job import Job
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.client import connect
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.support.nodes import APPS
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=100)
INSTANCE = "gpu/gpu-where-1"


class Hands:
    """Makes attempts, starts their executors, and reads what became of them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = connect(url)
        self.line, self.reader = Line(self.client), Reader(self.client)
        self.line.open("t4")
        self.app = Celery("by-hand", broker=url, backend=url)

    def attempt(self, task: str, *args: Any) -> Record:
        """Accept a call of a task, and make it a holder."""
        job = Job(str(uuid.uuid4()), task, "t4", "shared")
        sent = self.app.amqp.as_task_v2(job.id, task, args=args)
        message = {
            "headers": sent.headers,
            "body": json.dumps(sent.body),
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "properties": {"correlation_id": job.id},
            "delivery_info": {"exchange": "", "routing_key": "gpu.t4.shared"},
        }
        assert self.line.accept("t4", job.record(), json.dumps(message)) == "accepted"
        [granted] = self.line.enqueue(T4, job.delivery)
        return granted

    def run(
        self, record: Record, env: dict[str, str] | None = None, **how: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run the executor of an attempt to its end."""
        told = {
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
        command = [sys.executable, "-m", "gpuqueue.executor"]
        return subprocess.run(
            command, env=told | (env or {}), capture_output=True, text=True, timeout=PATIENCE, **how
        )

    def kept(self, record: Record) -> Record:
        found = self.reader.record("t4", record["delivery"])
        assert found
        return found


@pytest.fixture(scope="module")
def hands() -> Iterator[Hands]:
    with EmbeddedRedis() as server:
        made = Hands(server.url)
        yield made
        made.app.close()
        made.client.close()


def test_the_brokers_address_is_all_that_an_executor_must_know_of_redis(hands: Hands) -> None:
    record = hands.attempt("bare.where")
    done = hands.run(record)
    assert done.returncode == 0, done.stderr
    assert (
        hands.app.AsyncResult(record["id"])
        .get(PATIENCE)["hostname"]
        .startswith(f"t4-{record['id']}-1@")
    )


def test_the_state_and_the_results_may_live_elsewhere(hands: Hands) -> None:
    record = hands.attempt("bare.where")
    done = hands.run(
        record,
        {
            "CELERY_BROKER_URL": hands.url.replace("/0", "/1"),
            "CELERY_RESULT_BACKEND": hands.url.replace("/0", "/2"),
            "GPUQUEUE_REDIS_URL": hands.url,
        },
    )
    assert done.returncode == 0, done.stderr
    assert hands.kept(record)["reason"] == "SUCCEEDED"
    assert hands.app.AsyncResult(record["id"]).state == "PENDING"
    with Celery("elsewhere", backend=hands.url.replace("/0", "/2")) as elsewhere:
        assert elsewhere.AsyncResult(record["id"]).get(PATIENCE)["hostname"]


def test_an_attempt_in_a_pod_is_the_pods_and_shows_its_name(hands: Hands) -> None:
    record = hands.attempt("bare.where")
    done = hands.run(record, {"GPUQUEUE_POD": "gpu-where-1-x7k", "GPUQUEUE_POD_UID": "8a0b-77"})
    assert done.returncode == 0, done.stderr
    worker = f"t4-{record['id']}-1@gpu-where-1-x7k"
    assert hands.app.AsyncResult(record["id"]).get(PATIENCE)["hostname"] == worker
    assert (hands.kept(record)["instance"], hands.kept(record)["worker"]) == (
        f"{INSTANCE}/8a0b-77",
        worker,
    )


def test_an_attempt_outside_a_pod_is_its_processs(hands: Hands) -> None:
    record = hands.attempt("bare.where")
    assert hands.run(record).returncode == 0
    start, _, pid = hands.kept(record)["instance"].rpartition(":")
    assert (start, pid.isdecimal()) == (INSTANCE, True)


def no_file() -> None:
    """Refuse this process every byte that it would write to a file; pipes and sockets are left to
    it.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.mark.parametrize(
    "home", [None, "/nonexistent"], ids=["no home", "a home that is not there"]
)
def test_an_executor_wants_no_home_and_writes_no_file(
    hands: Hands, tmp_path: Path, home: str | None
) -> None:
    record = hands.attempt("bare.where")
    env = {"TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"} | (
        {"HOME": home} if home else {}
    )
    done = hands.run(record, env, cwd=tmp_path, preexec_fn=no_file)
    assert done.returncode == 0, done.stderr
    assert hands.app.AsyncResult(record["id"]).get(PATIENCE)["home"] == home
    assert list(tmp_path.iterdir()) == []


def test_an_executor_with_a_failed_gpu_writes_nothing_and_exits_at_once(
    hands: Hands,
) -> None:
    record = hands.attempt(
        "shop.wear_out", "worn", 1
    )  # it leaves a thread that would keep the process for a minute
    done = hands.run(record)
    assert done.returncode == EXIT_DEVICE
    assert "RuntimeError: CUDA error: uncorrectable ECC error encountered" in done.stderr
    assert hands.kept(record)["state"] == "running"
    assert (
        hands.kept(record)["gpu_error"]
        == "RuntimeError: CUDA error: uncorrectable ECC error encountered"
    )
    assert hands.app.AsyncResult(record["id"]).state == "STARTED"


def test_figures_of_the_gpu_that_come_late_lower_none(hands: Hands) -> None:
    record = hands.attempt("bare.where")
    executor = ExecutorAttempt(hands.client, Attempt.of(record), record["token"])
    executor.claim(INSTANCE, "worker")
    assert executor.sampled({"gpu": "GPU-1", "gpu_memory_peak": 5})
    executor.report(
        "SUCCEEDED",
        {"gpu": "GPU-1", "gpu_memory_peak": 15_032_385_536, "gpu_memory_own": 3},
    )
    assert executor.sampled({"gpu": "GPU-1", "gpu_memory_peak": 6, "gpu_memory_own": 4})
    assert executor.sampled({})
    executor.reported(1000)
    kept = hands.kept(record)
    assert (kept["gpu"], kept["gpu_memory_peak"], kept["gpu_memory_own"]) == (
        "GPU-1",
        15_032_385_536,
        4,
    )


def test_a_stale_attempt_reports_no_gpu(hands: Hands) -> None:
    record, seen = hands.attempt("bare.where"), {"gpu": "GPU-1"}
    attempt = Attempt.of(record)
    executor = ExecutorAttempt(hands.client, attempt, record["token"])
    assert not executor.sampled(seen)  # not claimed yet
    executor.claim(INSTANCE, "worker")
    assert not ExecutorAttempt(hands.client, attempt, "another's").sampled(seen)
    assert not ExecutorAttempt(hands.client, replace(attempt, number=2), record["token"]).sampled(
        seen
    )
    executor.report("SUCCEEDED")
    executor.reported(1000)
    assert not executor.sampled(seen)
    assert "gpu" not in hands.kept(record)
