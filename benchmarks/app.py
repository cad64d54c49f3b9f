"""The application of the benchmarks: plain Celery, for its workers and executors."""

from __future__ import annotations

import os
import subprocess
import time
from functools import cache
from typing import Any

import redis
from celery import Celery

app = Celery(
    "bench",
    broker=os.environ.get("CELERY_BROKER_URL"),
    backend=os.environ.get("CELERY_RESULT_BACKEND"),
)
app.conf.worker_prefetch_multiplier = int(os.environ.get("BENCH_PREFETCH", "4"))
app.conf.worker_max_tasks_per_child = int(os.environ.get("BENCH_TASKS_PER_CHILD", "0")) or None
app.conf.worker_send_task_events = bool(os.environ.get("BENCH_EVENTS"))


@app.task(name="bench.noop")  # type: ignore[untyped-decorator]
def noop(*args: object) -> None:
    """Do nothing."""


@app.task(name="bench.hold")  # type: ignore[untyped-decorator]
def hold() -> None:
    """Hold a slot until a signal ends it."""
    while True:
        time.sleep(1)


@app.task(name="bench.hold_until")  # type: ignore[untyped-decorator]
def hold_until(key: str) -> None:
    """Hold a slot until a key of the broker's Redis is a list with an element."""
    _slots().blpop([key])


@cache
def _slots() -> redis.Redis:
    return redis.Redis.from_url(os.environ["CELERY_BROKER_URL"])


@app.task(name="bench.poll_and_run")  # type: ignore[untyped-decorator]
def poll_and_run(
    slot: str, name: str, seconds: float, command: list[str], env: dict[str, str], interval: float
) -> None:
    """The usual method without a GPU queue: occupy a worker, poll for a free slot every
    ``interval`` seconds, run, free the slot.
    """
    while not _slots().set(slot, name, nx=True):
        time.sleep(interval)
    try:
        subprocess.run(
            command,
            env={**env, "GPUQUEUE_JOB_ID": name, "GPUQUEUE_TASK": f"run-{seconds}"},
            check=True,
        )
    finally:
        _slots().delete(slot)


@cache
def _jobs() -> Any:
    from kubernetes import client, config

    config.load_kube_config()
    return client.BatchV1Api()


@app.task(name="bench.make_job")  # type: ignore[untyped-decorator]
def make_job(namespace: str, manifest: dict[str, Any]) -> None:
    """The usual method on a cluster without a GPU queue: the task creates the Job with the official
    client.
    """
    _jobs().create_namespaced_job(namespace, manifest)
