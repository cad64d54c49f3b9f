"""How soon an empty job has its result, and how many of them a machine runs.

Ours: a dispatcher with 8 slots, whose runner forks an executor per job. Peers, in turns in the same
run: the same with a new process per job (``GPUQUEUE_START=spawn``), and plain Celery prefork
workers with 8 processes, one that ends each process after its task and one as usual. Time: from
``apply_async`` to the answer of ``get``, one job at a time; a value is the median of a turn.
Throughput: jobs sent at once, until the last result. Floor of the time: none, since the peers have
the same broker and backend. Aims on 2 cores: p50 ≤ 15 ms and ≥ 100 jobs/s, and a prefork worker
with one task per process beaten 4 times in both. That worker often starts a task only 5 s after the
end of the one before, when its pool looks for new processes: the lower quartile of its times, which
has no such pause, is what counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from benchmarks.harness import Figure, Sample, Size, alternate, percentile, timed
from benchmarks.stage import Stage

AIM_MS, AIM_RATE, AIM_TIMES = 15.0, 100.0, 4.0
SLOTS = 8
LABELS = ("forked", "spawned", "prefork, one task per process", "prefork")
#: The same for times.
TIMES = (*LABELS[:2], "prefork, one task per process, p25", LABELS[3])


def run(size: Size) -> list[Figure]:
    """Measure it."""
    repeats = size.of(3, 1)
    with ExitStack() as stages:
        forked = stages.enter_context(Stage(GPUQUEUE_START="fork"))
        spawned = stages.enter_context(Stage(GPUQUEUE_START="spawn"))
        for each in (forked, spawned):
            each.dispatcher("gpu.t4.shared", T4_SHARED_SLOTS=str(SLOTS))
        forked.worker("once", "prefork", SLOTS, BENCH_TASKS_PER_CHILD="1")
        forked.worker("usual", "prefork", SLOTS)
        sides = (
            (forked, "gpu.t4.shared"),
            (spawned, "gpu.t4.shared"),
            (forked, "once"),
            (forked, "usual"),
        )
        shares = (0.5, 0.5, 0.25, 0.5)
        times = alternate(
            repeats,
            *(
                one_by_one(stage, {"queue": queue}, size.of(20, 4), share)
                for (stage, queue), share in zip(sides, shares, strict=True)
            ),
        )
        rates = alternate(
            repeats,
            *(at_once(stage, {"queue": queue}, size.of(200, 10)) for stage, queue in sides[:1]),
            *(at_once(stage, {"queue": queue}, size.of(30, 5)) for stage, queue in sides[1:2]),
            *(at_once(stage, {"queue": queue}, size.of(200, 10)) for stage, queue in sides[2:]),
        )
    took = [Sample(label, values) for label, values in zip(TIMES, times, strict=True)]
    ran = [Sample(label, values) for label, values in zip(LABELS, rates, strict=True)]
    return [
        _figure("apply → result of an empty job, p50", "ms", took, took[0].middle <= AIM_MS),
        _figure("empty jobs on 8 slots", "/s", ran, ran[0].middle >= AIM_RATE),
    ]


def _figure(name: str, unit: str, samples: list[Sample], met: bool) -> Figure:
    figure = Figure(name, unit, samples[0], tuple(samples[1:]))
    ratio = figure.ratios[1]
    faster = ratio is not None and (ratio <= 1 / AIM_TIMES if unit == "ms" else ratio >= AIM_TIMES)
    aim = f"≤ {AIM_MS:g} ms" if unit == "ms" else f"≥ {AIM_RATE:g} /s"
    aim += f", {AIM_TIMES:g} times one task per process"
    return Figure(name, unit, samples[0], tuple(samples[1:]), None, aim, met and faster)


def one_by_one(
    stage: Stage, to: Mapping[str, Any], times: int, share: float = 0.5
) -> Callable[[], float]:
    """Return a turn: milliseconds from sending an empty job to its answer, one at a time. ``to``:
    options of ``send_task``; ``share``: the percentile.
    """

    def once() -> object:
        return _send(stage, to).get(timeout=60)

    return lambda: percentile([timed(once) for _ in range(times)], share) * 1000


def at_once(stage: Stage, to: Mapping[str, Any], jobs: int) -> Callable[[], float]:
    """Return a turn: empty jobs per second, of some that are sent at once."""

    def measure() -> float:
        begun = time.perf_counter()
        for result in [_send(stage, to) for _ in range(jobs)]:
            result.get(timeout=120)
        return jobs / (time.perf_counter() - begun)

    return measure


def _send(stage: Stage, to: Mapping[str, Any]) -> Any:
    return stage.app.send_task("bench.noop", **to)
