"""How soon an empty job has its result in a pod, and how many of them a machine runs there.

Ours: a dispatcher with 8 slots on the double of Kubernetes, whose containers are processes of this
machine and whose delays are a twentieth of those of a cluster (no image, no network, no node).
Cold: a pod per job. Warm: pods that go on with other jobs, in a process each. Reused: pods whose
processes go on, too (``reuse=1000``); its jobs are sent at once, since a process that finds no job
ends. Peers in the same run: plain Celery prefork workers with 8 processes, as usual and with one
task per process. Time: from ``apply_async`` to the answer of ``get``, one job at a time; a value is
the median of a turn. Throughput: jobs sent at once, until the last result; warm pods are there
before. Aims on 2 cores, where the double runs, too: warm p50 ≤ 30 ms and ≥ 60 jobs/s; reused at
least half of prefork.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, Sample, Size, alternate
from benchmarks.kube import IMAGE, Double
from benchmarks.stage import ROOT, Stage
from benchmarks.start import at_once, one_by_one

AIM_MS, AIM_RATE, AIM_REUSED = 30.0, 60.0, 0.5
SLOTS = 8
QUEUE = "gpu.t4.shared"
COLD: dict[str, Any] = {"queue": QUEUE, "headers": {"gpu": {"warm": 0}}}
WARM: dict[str, Any] = {"queue": QUEUE, "headers": {"gpu": {"warm": 60}}}
REUSED: dict[str, Any] = {"queue": QUEUE, "headers": {"gpu": {"warm": 60, "reuse": 1000}}}
ONCE: dict[str, Any] = {"queue": "once"}
USUAL: dict[str, Any] = {"queue": "usual"}


def run(size: Size) -> list[Figure]:
    """Measure it."""
    repeats = size.of(3, 1)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gpuqueue-bench-"))
        stage = Stage()
        stack.enter_context(stage)
        env = {"PYTHONPATH": str(ROOT), "GPUQUEUE_APP": "benchmarks.app"}
        double = Double(
            Path(folder),
            pace=0.05,
            latency=0.0,
            gpus=SLOTS,
            broker=stage.url(),
            image_env=env,
        )
        stack.callback(double.close)
        stage.dispatcher(
            QUEUE,
            GPU_EXECUTION_MODE="k8s_job",
            GPU_EXECUTOR_IMAGE=IMAGE,
            KUBECONFIG=double.kubeconfig,
            T4_SHARED_SLOTS=str(SLOTS),
            GPUQUEUE_WARM_JOBS="100000",
        )
        stage.worker("once", "prefork", SLOTS, BENCH_TASKS_PER_CHILD="1")
        stage.worker("usual", "prefork", SLOTS)
        times = alternate(
            repeats,
            _one_by_one(stage, WARM, size.of(40, 5)),
            _one_by_one(stage, COLD, size.of(10, 2)),
            _one_by_one(stage, USUAL, size.of(40, 5)),
        )
        rates = alternate(
            repeats,
            _at_once(stage, WARM, size.of(200, 20)),
            at_once(stage, COLD, size.of(20, 4)),
            at_once(stage, ONCE, size.of(200, 20)),
            at_once(stage, USUAL, size.of(400, 40)),
        )
        reused = alternate(
            repeats,
            _at_once(stage, REUSED, size.of(400, 40)),
            at_once(stage, USUAL, size.of(400, 40)),
        )
    took = _samples(("warm pod", "pod per job", "prefork"), times)
    ran = _samples(("warm pods", "pod per job", "prefork, one task per process", "prefork"), rates)
    went_on = _samples(("reused", "prefork"), reused)
    half = went_on[0].middle >= AIM_REUSED * went_on[1].middle
    return [
        Figure(
            "apply → result of an empty job in a pod, p50",
            "ms",
            took[0],
            tuple(took[1:]),
            None,
            f"≤ {AIM_MS:g} ms",
            took[0].middle <= AIM_MS,
        ),
        Figure(
            "empty jobs in pods of 8 slots",
            "/s",
            ran[0],
            tuple(ran[1:]),
            None,
            f"≥ {AIM_RATE:g} /s",
            ran[0].middle >= AIM_RATE,
        ),
        Figure(
            "the same in processes that go on",
            "/s",
            went_on[0],
            tuple(went_on[1:]),
            None,
            "half of prefork",
            half,
        ),
    ]


def _samples(labels: tuple[str, ...], values: Any) -> list[Sample]:
    return [Sample(label, each) for label, each in zip(labels, values, strict=True)]


def _at_once(stage: Stage, to: dict[str, Any], jobs: int) -> Callable[[], float]:
    measure = at_once(stage, to, jobs)

    def there() -> float:
        at_once(stage, to, 2 * SLOTS)()  # all pods, or processes, are there
        return measure()

    return there


def _one_by_one(stage: Stage, to: dict[str, Any], times: int) -> Callable[[], float]:
    measure = one_by_one(stage, to, times)

    def there() -> float:
        one_by_one(stage, to, 1)()  # a pod, or a process, is there
        return measure()

    return there
