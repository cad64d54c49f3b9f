"""What a job asks of the API server, over a real workload.

Measured: the requests that the double counted, divided by the jobs, in a replay of the first jobs
of the T4 trace on one class (8 shared, 1 exclusive slots), from when the leader follows until the
last log is read. Their bytes as well, both ways, with headers and what the watch sent. Time runs
faster, so that the replay holds what belongs to jobs; what a leader asks whatever runs (a watch
begun anew, lists for safety) is added in a figure of its own, by its settings and the trace's own
length. Peer: whoever creates a Job and asks for its state every 10 s until it has ended, at the
trace's own speed: the durations of the same jobs divided by 10, rounded up; its bytes by those that
one such request, and one creation, took in this run. Aim: at most 2.1 requests a job.

``BENCH_TRACES`` names the folder of ``t4_openb.csv``; without it, it is left out.
"""

from __future__ import annotations

import csv
import math
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import Figure, Sample, Size, until
from benchmarks.kube import SETTINGS, Dispatching, Double
from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import GpuClass

AIM = 2.1
#: Seconds between two looks of the peer.
POLL = 10.0
#: Trace seconds in one second here.
SPEED = 4000.0
#: The longest run of one job, and the longest time between two arrivals, in seconds here.
LONGEST, NEXT = 2.0, 0.05


class _Asked(NamedTuple):
    """Requests, and their bytes both ways."""

    count: int
    size: int


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
            before = _asked(double)
            _replay(ours, rows)
            until(
                lambda: _asked(double, "get pods/log").count >= len(rows),
                "all logs are read",
                30,
                0.2,
            )
            after = _asked(double)
            post = _asked(double, "create jobs")
            ours.api.get_job(ours.api.names["trace-0"])
            get = _asked(double, "get jobs")
        finally:
            ours.close()
            double.close()
    count, taken = (after.count - before.count) / len(rows), (after.size - before.size) / len(rows)
    polls = sum(math.ceil(float(row["duration_s"]) / POLL) for row in rows) / len(rows)
    polled = post.size / post.count + polls * get.size / get.count
    hours = (float(rows[-1]["arrival_s"]) - float(rows[0]["arrival_s"])) / 3600
    # Watches that end, and both lists, the pods' and the Jobs'.
    standing = (
        hours * (3600 / SETTINGS.watch_seconds + 2 * 3600 / SETTINGS.pod_relist_seconds) / len(rows)
    )
    poller = f"asks each {POLL:g} s"
    whole = f"requests of a job with all that {hours:.0f} h of the trace ask for besides"
    return [
        Figure(
            "requests of a job",
            "",
            _one("follower", count),
            (_one(poller, 1 + polls),),
            None,
            f"≤ {AIM}",
            count <= AIM,
        ),
        Figure("bytes of a job, both ways", "B", _one("follower", taken), (_one(poller, polled),)),
        Figure(whole, "", _one("follower", count + standing), (_one(poller, 1 + polls),)),
    ]


def _one(label: str, value: float) -> Sample:
    return Sample(label, (value,))


def _replay(ours: Dispatching, rows: list[dict[str, str]]) -> None:
    """Have the jobs of a trace arrive and run, until all have ended."""
    began, first = time.monotonic(), float(rows[0]["arrival_s"])
    for number, row in enumerate(rows):
        due = began + min((float(row["arrival_s"]) - first) / SPEED, number * NEXT)
        time.sleep(max(0.0, due - time.monotonic()))
        seconds = min(LONGEST, float(row["duration_s"]) / SPEED)
        ours.submit(f"gpu.t4.{row['mode']}", f"trace-{number}", seconds)
    until(lambda: _ended(ours) == len(rows), "all have ended", 600, 0.2)


def _ended(ours: Dispatching) -> int:
    return sum(
        record["state"] == "ended" and "released" in record
        for record in ours.reader.all_records("t4")
    )


def _asked(double: Double, what: str = "") -> _Asked:
    """Return what was asked so far: all, or one verb on one resource."""
    counted = [
        each for each in double.requests() if what in ("", f"{each['verb']} {each['resource']}")
    ]
    return _Asked(
        sum(each["count"] for each in counted), sum(each["in"] + each["out"] for each in counted)
    )
