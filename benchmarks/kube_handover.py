"""How long a slot is empty between two jobs of a cluster, and how soon a Job is asked for.

Measured: from the moment at which the line of a watch that says that a container has terminated can be read by anybody (a bare
socket reads the same watch), until the next Job of that slot is POSTed. And from the acceptance of a message until its Job is
POSTed, where a slot is free. The double keeps the delays that were recorded (pace 1), with 5 ms for each request.
Peers, on the same Jobs: whoever waits for the Job's Complete condition (a bare socket reads the watch of Jobs); whoever asks for
each Job's state each 1 s, or each 10 s, from its POST on (the first such moment after the condition was set).
Floor: none is taken off; the bare socket is where counting starts.
Aim: p50 ≤ 10 ms, p99 ≤ 50 ms.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Figure, Sample, Size, percentile, until
from benchmarks.kube import Dispatching, Double, Eye
from benchmarks.stage import Stage
from gpuqueue.classes import GpuClass

P50, P99 = 10.0, 50.0
SECONDS = 0.3


def run(size: Size) -> list[Figure]:
    """Measure it."""
    slots, rounds = size.of(8, 4), size.of(16, 3)
    with Stage() as stage, tempfile.TemporaryDirectory(prefix="gpuqueue-bench-") as folder:
        double = Double(Path(folder), pace=1.0, latency=0.005)
        classes = {f"c{slot}": GpuClass(f"c{slot}", exclusive_slots=1) for slot in range(slots)}
        ours = Dispatching(stage, double, classes)
        path = f"/namespaces/{ours.api.namespace}"
        try:
            until(lambda: all(ours.reader.todo(name, 0).opened for name in classes), "the classes are open")
            pods = Eye(ours.api, f"/api/v1{path}/pods", b'"terminated"')
            jobs = Eye(ours.api, f"/apis/batch/v1{path}/jobs", b'"type":"Complete"')
            sent = {}
            for turn in range(rounds):
                for slot in range(slots):
                    name = f"c{slot}-{turn}"
                    sent[name] = time.monotonic()
                    ours.submit(f"gpu.c{slot}", name, SECONDS)
            until(lambda: len(jobs.seen) == slots * rounds, "all Jobs are complete", 30 + 10 * rounds)
        finally:
            ours.close()
            double.close()
    posted = ours.api.posted
    launch = [1000 * (posted[f"c{slot}-0"] - sent[f"c{slot}-0"]) for slot in range(slots)]
    pairs = [(f"c{slot}-{turn}", f"c{slot}-{turn + 1}") for slot in range(slots) for turn in range(rounds - 1)]
    gaps = [1000 * (posted[after] - pods.seen[before]) for before, after in pairs]
    late = {name: jobs.seen[name] - pods.seen[name] for name, _ in pairs}
    complete = [1000 * seconds for seconds in late.values()]
    polled = {every: [1000 * _poll(posted[name], jobs.seen[name], pods.seen[name], every) for name in late] for every in (1, 10)}
    figures = []
    for what, share, aim in (("p50", 0.5, P50), ("p99", 0.99, P99)):
        mine = Sample("follower", tuple(gaps), percentile(gaps, share))
        peers = [("Complete condition", complete), *((f"polls each {every} s", values) for every, values in polled.items())]
        samples = tuple(Sample(label, tuple(values), percentile(values, share)) for label, values in peers)
        figures.append(
            Figure(f"end to next POST, {what}", "ms", mine, samples, None, f"≤ {aim:.0f} ms", percentile(gaps, share) <= aim)
        )
    figures.append(Figure("message to POST, p50", "ms", Sample("dispatcher", tuple(launch))))
    return figures


def _poll(began: float, complete: float, ended: float, every: float) -> float:
    """Seconds from the end until somebody sees it who asks each ``every`` seconds since ``began``."""
    return began + math.ceil((complete - began) / every) * every - ended
