"""How many requests a job sends to the API server, over a real workload.

Measured: the requests that the double counted, divided by the number of jobs, in a replay of the
first jobs of the T4 trace on one class (8 shared, 1 exclusive slots), from the start of the
leader's watch until the last log is read. Also the bytes in both directions, including headers and
watch events. Time runs faster, so that the replay contains only requests of jobs; the periodic
requests of a leader (new watches, safety lists) are added in a separate figure, from its settings
and the length of the trace. Peer: a client that creates a Job and polls its state every 10 s until
it has ended, at the speed of the trace: the durations of the same jobs divided by 10, rounded up;
its bytes from one such request and one creation in this run. Aim: at most 2.1 requests per job.

``BENCH_TRACES`` names the directory of ``t4_openb.csv``; without it, the benchmark is skipped.
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
#: Polling interval of the peer, in seconds.
POLL = 10.0
#: Seconds of the trace per second of the replay.
SPEED = 4000.0
#: The longest run of one job and the longest time between two arrivals, in seconds of the replay.
LONGEST, NEXT = 2.0, 0.05


class _Asked(NamedTuple):
    """Requests, and their bytes in both directions."""

    requests: int
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
                lambda: _asked(double, "get pods/log").requests >= len(rows),
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
    count, taken = (
        (after.requests - before.requests) / len(rows),
        (after.size - before.size) / len(rows),
    )
    polls = sum(math.ceil(float(row["duration_s"]) / POLL) for row in rows) / len(rows)
    polled = post.size / post.requests + polls * get.size / get.requests
    hours = (float(rows[-1]["arrival_s"]) - float(rows[0]["arrival_s"])) / 3600
    # Watches that end, and the lists of pods and Jobs.
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
    """Run the jobs of a trace until all have ended."""
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
    """Return the requests so far: all, or one verb on one resource."""
    counted = [
        each for each in double.requests() if what in ("", f"{each['verb']} {each['resource']}")
    ]
    return _Asked(
        sum(each["count"] for each in counted), sum(each["in"] + each["out"] for each in counted)
    )
