"""How long a slot of a cluster is empty between two jobs.

Measured: from the moment when the watch line about the terminated container is readable (a bare
socket reads the same watch), until the POST of the next Job of that slot. The time until the server
sends this line is not part of any figure; a value below zero means that the dispatcher was faster
than the thread of the socket. Each class has one slot; jobs run for 0.3 to 1.3 s, by a fixed seed.
The double uses recorded delays (pace 1), with 5 ms for each request. Peers, on the same Jobs at the
same time, each with an immediate POST: a client that waits for the Complete condition of the Job (a
bare socket reads the watch of Jobs); a client that polls each Job every 1 s or every 10 s, from its
POST on. Aim: p50 ≤ 10 ms, p99 ≤ 50 ms.

With BENCH_KUBERNETES=1, it uses the cluster of KUBECONFIG, which needs GPUs for 8 pods and an image
(BENCH_IMAGE) with ``sleep``.
"""

from __future__ import annotations

import random
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.harness import Figure, Sample, Size, percentile, until
from benchmarks.kube import Dispatching, cluster
from benchmarks.kube_eyes import Eye, Poller
from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import GpuClass

P50, P99 = 10.0, 50.0
SHORTEST, LONGEST = 0.3, 1.3
#: Polling intervals of the peers, in seconds.
POLLS = (1, 10)


def run(size: Size) -> list[Figure]:
    """Measure it."""
    slots, rounds = size.of(8, 4), size.of(16, 3)
    dice = random.Random(1)
    pollers: list[Poller] = []
    with Stage() as stage, tempfile.TemporaryDirectory(prefix="gpuqueue-bench-") as folder:
        where = cluster(Path(folder), pace=1.0)
        classes = {f"c{slot}": GpuClass(f"c{slot}", exclusive_slots=1) for slot in range(slots)}
        ours = Dispatching(stage, where, classes)
        path = f"/namespaces/{ours.api.namespace}"
        try:
            until(
                lambda: all(ours.reader.todo(name, 0).opened for name in classes),
                "the classes are open",
            )
            pods = Eye(ours.api, f"/api/v1{path}/pods", b'"terminated"')
            jobs = Eye(ours.api, f"/apis/batch/v1{path}/jobs", b'"type":"Complete"')
            pollers += (Poller(where.api(), ours.api, every) for every in POLLS)
            for turn in range(rounds):
                for slot in range(slots):
                    ours.submit(f"gpu.c{slot}", f"c{slot}-{turn}", dice.uniform(SHORTEST, LONGEST))
            all_jobs = {f"c{slot}-{turn}" for slot in range(slots) for turn in range(rounds)}
            for poller in pollers:
                until(
                    partial(_has_seen, poller, all_jobs),
                    "all Jobs are seen complete",
                    60 + 20 * rounds,
                    0.05,
                )
        finally:
            for poller in pollers:
                poller.stop()
            ours.close()
            where.close()
    posted = ours.api.posted
    pairs = [
        (f"c{slot}-{turn}", f"c{slot}-{turn + 1}")
        for slot in range(slots)
        for turn in range(rounds - 1)
    ]
    found = {"follower": [1000 * (posted[after] - pods.seen[before]) for before, after in pairs]}
    watchers = {"Complete condition": jobs.seen} | {
        f"asks each {every} s ({poller.asked / len(all_jobs):.1f} times a job)": poller.seen
        for every, poller in zip(POLLS, pollers, strict=True)
    }
    found |= {
        label: [1000 * (seen[before] - pods.seen[before]) for before, _ in pairs]
        for label, seen in watchers.items()
    }
    figures = []
    for what, share, aim in (("p50", 0.5, P50), ("p99", 0.99, P99)):
        mine, *peers = (
            Sample(label, tuple(values), percentile(values, share))
            for label, values in found.items()
        )
        figures.append(
            Figure(
                f"end to next POST, {what}",
                "ms",
                mine,
                tuple(peers),
                None,
                f"≤ {aim:g} ms",
                mine.middle <= aim,
            )
        )
    return figures


def _has_seen(poller: Poller, jobs: set[str]) -> bool:
    return jobs <= poller.seen.keys()
