"""How much monitors keep of many jobs: workers, series and memory.

Ours: a dispatcher with 8 slots runs 10,000 empty jobs, each in its own process, beside Flower and a
reader of all events. Peer: the same tasks on one plain Celery prefork worker with 8 processes,
beside its own Flower and reader. Measured once for each side, at the end: workers on the first page
of Flower, series of its ``/metrics``, tasks that it has counted as succeeded, and the names of
workers in all events, which other monitors such as celery-exporter make their labels of. Both
figures that could grow with the jobs are also taken after the first 100 jobs: series, and the
memory of Flower (resident set), of which the growth per job is shown. Flower keeps the last tasks
by itself (100,000). The order of its first events decides how CPython lays out what it keeps of a
task: the same events take 3.4 or 4.8 KB a task in it, so memory is compared within that. Floor:
none. Aims: one worker and one name, no more series than after the first 100 jobs, all jobs counted,
and at most 1.5 times the memory a job of the peer.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psutil

from benchmarks.harness import Figure, Sample, Size, until
from benchmarks.stage import Stage

FIRST, SLOTS, TIMES = 100, 8, 1.5
GPU_QUEUE = "gpu.t4.shared"
SUCCEEDED = re.compile(r'flower_events_total\{.*type="task-succeeded".*\} (\d+)')


@dataclass(frozen=True, slots=True)
class Seen:
    """What the monitors of one side have at the end. Memory: bytes for each job after the first."""

    workers: int
    names: int
    series: int
    first_series: int
    succeeded: int
    memory: float


def run(size: Size) -> list[Figure]:
    """Measure it."""
    jobs = size.of(10_000, 300)
    with Stage() as stage:
        stage.dispatcher(GPU_QUEUE, T4_SHARED_SLOTS=str(SLOTS))
        ours = _watch(stage, "gpuqueue", GPU_QUEUE, jobs)
    with Stage() as stage:
        stage.worker("cpu", "prefork", SLOTS, BENCH_EVENTS="1")
        theirs = _watch(stage, "benchmarks.app", "cpu", jobs)
    return [
        _figure("workers on Flower's first page", "workers", ours.workers, theirs.workers, 1),
        _figure("names of workers in all events", "names", ours.names, theirs.names, 1),
        Figure(
            "series of Flower's /metrics",
            "series",
            Sample(f"after {jobs} jobs", (ours.series,)),
            (
                Sample("Celery worker", (theirs.series,)),
                Sample("ours, 100 jobs", (ours.first_series,)),
            ),
            aim=f"≤ {ours.first_series}, as after {FIRST} jobs",
            met=ours.series <= ours.first_series,
        ),
        Figure(
            "jobs that Flower counted as succeeded",
            "jobs",
            Sample("gpuqueue", (ours.succeeded,)),
            (Sample("Celery worker", (theirs.succeeded,)),),
            aim=f"{jobs}",
            met=ours.succeeded == jobs,
        ),
        Figure(
            "memory of Flower per job",
            "bytes",
            Sample("gpuqueue", (ours.memory,)),
            (Sample("Celery worker", (theirs.memory,)),),
            aim=f"≤ {TIMES:g} times the peer",
            met=ours.memory <= TIMES * theirs.memory,
        ),
    ]


def _figure(name: str, unit: str, ours: int, theirs: int, most: int) -> Figure:
    peers = (Sample("Celery worker", (theirs,)),)
    return Figure(name, unit, Sample("gpuqueue", (ours,)), peers, aim=f"≤ {most}", met=ours <= most)


def _watch(stage: Stage, app: str, queue: str, jobs: int) -> Seen:
    """Run jobs beside monitors."""
    with Flower(stage, app) as flower, Reader(stage) as events:
        _run(stage, queue, FIRST, flower, events)
        first_series, first_memory = len(flower.series()), flower.memory()
        _run(stage, queue, jobs - FIRST, flower, events)
        return Seen(
            workers=len(flower.workers()),
            names=len(events.names),
            series=len(flower.series()),
            first_series=first_series,
            succeeded=flower.succeeded(),
            memory=(flower.memory() - first_memory) / (jobs - FIRST),
        )


def _run(stage: Stage, queue: str, jobs: int, flower: Flower, events: Reader) -> None:
    """Run jobs, and wait until both monitors have seen their ends."""
    total = events.succeeded + jobs
    for _ in range(jobs):
        stage.app.send_task("bench.noop", queue=queue)
    until(lambda: events.succeeded >= total, "the jobs have run", 900, 0.1)
    until(lambda: flower.succeeded() >= total, "Flower has seen it", 120, 0.5)


class Flower:
    """A Flower beside a stage."""

    def __init__(self, stage: Stage, app: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._page = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "celery", "-A", app, "flower"]
        command += ["--address=127.0.0.1", f"--port={port}"]
        with (stage.directory / "flower.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=stage.environment(FLOWER_UNAUTHENTICATED_API="true"),
                cwd=stage.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        until(self.workers, "Flower sees a worker", 60, 0.2)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def workers(self) -> list[Mapping[str, Any]]:
        """Return the rows of its first page; none while it is not up."""
        found = self._read("/workers?json=1")
        return json.loads(found)["data"] if found else []

    def series(self) -> set[str]:
        """Return the names and labels of its metrics. What Python itself counts is no part."""
        lines = self._read("/metrics").splitlines()
        return {line.rpartition(" ")[0] for line in lines if line.startswith("flower_")}

    def succeeded(self) -> int:
        """Return how many jobs its metrics have counted as succeeded, of all workers."""
        return sum(int(float(each)) for each in SUCCEEDED.findall(self._read("/metrics")))

    def memory(self) -> int:
        """Return its resident set in bytes."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def _read(self, path: str) -> str:
        try:
            with urllib.request.urlopen(self._page + path, timeout=30) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, ConnectionError):
            if self._process.poll() is not None:
                raise RuntimeError("Flower has ended") from None
            return ""


class Reader:
    """Reads all events, as any monitor does."""

    def __init__(self, stage: Stage) -> None:
        self._connection = stage.app.connection_for_read()
        self._receiver = stage.app.events.Receiver(self._connection, {"*": self._note})
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.names: set[str] = set()
        self.succeeded = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._receiver.should_stop = True
        self._thread.join(10)
        self._connection.release()

    def _run(self) -> None:
        self._receiver.capture(limit=None, timeout=None, wakeup=False)

    def _note(self, event: Mapping[str, Any]) -> None:
        self.names.add(event["hostname"])
        self.succeeded += event["type"] == "task-succeeded"
