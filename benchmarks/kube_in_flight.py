"""What a job costs while 10,000 are in flight: requests to the API server, and the leader's time.

Measured: a dispatcher (in this process) takes 10,000 jobs of one class with as many slots. The
containers of the double end only after all Jobs were created, spread over two minutes, so that all
are in flight together; then each gives its slot back. The requests that the double counted, divided
by the number of jobs, from the start of the leader's watch until the last log is read. The leader's
turn: the time of one whole cycle of its loop (turns of classes, repair, clocks of pods), without
its sleep, while all are in flight and while they end. Memory: the growth of this process (its
resident set) for each job. Peer: a client that creates a Job and polls it every 10 s, for as long
as a job ran. Aim: at most 2.1 requests per job. The deletion of its Job, ten minutes after its end,
is not among them (``GPU_JOB_TTL_SECONDS``): one more, of at most 20 per second.
"""

from __future__ import annotations

import gc
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Figure, Sample, Size, percentile, until
from benchmarks.kube import Dispatching, Double, report
from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.client import connect

IN_FLIGHT = 10_000
REQUESTS = 2.1
POLL = 10.0
#: Seconds for which all are in flight, and over which they end.
STAY, SPREAD = 30.0, 120.0
#: Seconds from the report of an attempt until its container ends.
EARLY = 5.0
#: Jobs that are created per second at least, here.
RATE = 40.0


def run(size: Size) -> list[Figure]:
    """Measure it."""
    count, stay, spread = size.of(IN_FLIGHT, 200), size.of(int(STAY), 8), size.of(int(SPREAD), 4)
    gpu_class = GpuClass("t4", shared_slots=count)
    with Stage() as stage, tempfile.TemporaryDirectory(prefix="gpuqueue-bench-") as made:
        double = Double(Path(made), pace=0.02, nodes=4, gpus=count)
        ours = Dispatching(stage, double, {"t4": gpu_class})
        try:
            until(lambda: ours.reader.todo("t4", 0).opened, "the class is open")
            unreported: list[tuple[float, Attempt, str]] = []
            ours.api.unreported = unreported
            turns = _Turns(ours)
            before, empty = _asked(double), _rss()
            began = time.monotonic()
            ends = began + count / RATE + stay
            for number in range(count):
                lasts = ends - time.monotonic() + spread * number / count
                ours.submit("gpu.t4.shared", f"job-{number}", max(0.0, lasts))
            until(lambda: len(ours.api.posted) == count, "all Jobs are created", 900, 0.1)
            created = time.monotonic() - began
            held = _held(ours)
            turns.clear()
            assert time.monotonic() < ends - stay / 2, f"created within {created:.0f} s: too slow"
            late = sorted(unreported, key=lambda each: each[0])
            apart = get_context("spawn").Process(target=_report, args=(stage.url(), late))
            apart.start()
            time.sleep(ends - EARLY - time.monotonic())
            flying, full = turns.clear(), _rss()
            until(lambda: _logs(double) >= count, "all logs are read", 900, 0.5)
            until(lambda: not _held(ours), "all slots are free", 60, 0.5)
            ending, lasted = turns.clear(), time.monotonic() - began
            sent = _asked(double) - before
        finally:
            ours.close()
            double.close()
    polls = 1 + (ends - began) / POLL
    print(
        f"created within {created:.0f} s ({count / created:.0f}/s), {held} in flight at once,"
        f" ended within {lasted:.0f} s; {len(flying)} and {len(ending)} turns"
    )
    assert held == count, f"only {held} of {count} were in flight at once"
    each = sent / count
    return [
        Figure(
            f"requests of a job, {count} in flight",
            "",
            Sample("follower", (each,)),
            (Sample(f"asks each {POLL:g} s", (polls,)),),
            None,
            f"≤ {REQUESTS}",
            each <= REQUESTS,
        ),
        *(_turn(count, share, flying, ending) for share in (0.5, 0.99)),
        Figure(
            "memory of a job in flight",
            "B",
            Sample("dispatcher", ((full - empty) / count,)),
            (),
            Sample("whole process", (full,)),
        ),
    ]


def _turn(count: int, share: float, flying: list[float], ending: list[float]) -> Figure:
    return Figure(
        f"a turn of the leader, {count} in flight, p{100 * share:.0f}",
        "ms",
        Sample("all run", tuple(flying), percentile(flying, share)),
        (),
        Sample("while they end", tuple(ending), percentile(ending, share)),
    )


class _Turns:
    """Times the cycles of a watcher, in milliseconds."""

    def __init__(self, ours: Dispatching) -> None:
        self._took: list[float] = []
        watcher: Any = ours.watcher
        cycle = watcher.cycle

        def timed(woken: str | None = None) -> float:
            began = time.perf_counter()
            try:
                return float(cycle(woken))
            finally:
                self._took.append(1000 * (time.perf_counter() - began))

        watcher.cycle = timed

    def clear(self) -> list[float]:
        """Return those so far, and forget them."""
        took, self._took = self._took, []
        return took


def _report(url: str, ends: list[tuple[float, Attempt, str]]) -> None:
    """Write each end shortly before its container ends, as executors do; for another process."""
    client = connect(url)
    for at, attempt, token in ends:
        time.sleep(max(0.0, at - EARLY - time.time()))
        report(ExecutorAttempt(client, attempt, token))


def _held(ours: Dispatching) -> int:
    return sum(1 for _ in ours.reader.holders("t4"))


def _rss() -> float:
    gc.collect()
    return float(psutil.Process().memory_info().rss)


def _asked(double: Double) -> int:
    return sum(each["count"] for each in double.requests())


def _logs(double: Double) -> int:
    found = (each["count"] for each in double.requests() if _is_log(each))
    return sum(found)


def _is_log(each: Any) -> bool:
    return f"{each['verb']} {each['resource']}" == "get pods/log"
