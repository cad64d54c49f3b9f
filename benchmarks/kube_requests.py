"""What a job asks of the API server, over a real workload.

Measured: the requests that the double counted, divided by the jobs, in a replay of the first jobs of the T4 trace on one class
(8 shared, 1 exclusive slots), with time running faster. Bytes as well, both ways, watch included.
Peer: whoever asks for each Job's state every 10 s from its creation on, at the trace's own speed: its durations divided by 10,
and the creation.
Aim: at most 2.1 requests a job.

``BENCH_TRACES`` names the folder of ``t4_openb.csv``; without it, it is left out.
"""

from __future__ import annotations

import csv
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, Sample, Size, until
from benchmarks.kube import Dispatching, Double
from benchmarks.stage import Stage
from gpuqueue.classes import GpuClass

AIM = 2.1
#: Trace seconds in one second here.
SPEED = 4000.0
#: The longest run of one job here, in seconds.
LONGEST = 2.0


def run(size: Size) -> list[Figure]:
    """Measure it."""
    folder = os.environ.get("BENCH_TRACES")
    if not folder:
        return []
    with (Path(folder) / "t4_openb.csv").open() as text:
        rows = list(csv.DictReader(text))[: size.of(300, 40)]
    with Stage() as stage, tempfile.TemporaryDirectory(prefix="gpuqueue-bench-") as made:
        double = Double(Path(made), pace=0.02)
        ours = Dispatching(stage, double, {"t4": GpuClass("t4", shared_slots=8, exclusive_slots=1)})
        try:
            until(lambda: ours.reader.todo("t4", 0).opened, "the class is open")
            before, began = _tallies(double.requests()), time.monotonic()
            first = float(rows[0]["arrival_s"])
            for number, row in enumerate(rows):
                due = began + min((float(row["arrival_s"]) - first) / SPEED, number * 0.05)
                time.sleep(max(0.0, due - time.monotonic()))
                seconds = min(LONGEST, float(row["duration_s"]) / SPEED)
                ours.submit(f"gpu.t4.{row['mode']}", f"trace-{number}", seconds)
            until(lambda: _ended(ours) == len(rows), "all have ended", 600, 0.2)
            until(lambda: _logs(double) >= len(rows), "all logs are read", 30, 0.2)
            after = _tallies(double.requests())
        finally:
            ours.close()
            double.close()
    count, taken = (after[0] - before[0]) / len(rows), (after[1] - before[1]) / len(rows)
    polls = sum(1 + float(row["duration_s"]) / 10 for row in rows) / len(rows)
    peer = Sample("polls each 10 s", (polls,))
    return [
        Figure("requests of a job", "", Sample("follower", (count,)), (peer,), None, f"≤ {AIM}", count <= AIM),
        Figure("bytes of a job, both ways", "B", Sample("follower", (taken,))),
    ]


def _ended(ours: Dispatching) -> int:
    return sum(record["state"] == "ended" and "released" in record for record in ours.reader.all_records("t4"))


def _logs(double: Double) -> int:
    return sum(each["count"] for each in double.requests() if each["resource"] == "pods/log")


def _tallies(tallies: Any) -> tuple[int, int]:
    return sum(each["count"] for each in tallies), sum(each["in"] + each["out"] for each in tallies)
