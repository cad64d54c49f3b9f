"""The workload of the handover: pairs of jobs that need the same slot, one running, one waiting;
and its peers.

Every side runs the same command with the same run times. The first job of a pair takes the slot and
runs for a random time; the second one arrives before that time ends. The measured value is the time
from the end of the first job to the start of the second.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import until
from benchmarks.stage import Stage
from gpuqueue.store.client import connect
from gpuqueue.store.keys import NAMES
from gpuqueue.store.scripts import source

#: -I and -S: the fastest start of an interpreter; all sides use it.
COMMAND = [sys.executable, "-I", "-S", str(Path(__file__).with_name("tiny.py"))]
#: The first job of a pair runs for 0.3 to 1.3 s: it ends at any point between two polls.
SHORTEST, LONGEST = 0.3, 1.3


@dataclass(frozen=True, slots=True)
class Pair:
    """Two jobs by name, and the run time of the first in seconds."""

    slot: int
    first: str
    second: str
    seconds: float


def pairs(count: int, seed: str) -> list[Pair]:
    """Make pairs; the same seed gives the same pairs."""
    dice = random.Random(seed)
    return [
        Pair(slot, f"{seed}-{slot}-a", f"{seed}-{slot}-b", dice.uniform(SHORTEST, LONGEST))
        for slot in range(count)
    ]


class Stamps:
    """The file in which each job records its start and its end."""

    def __init__(self, stage: Stage) -> None:
        self.file = stage.directory / "stamps"
        client = connect(stage.url())
        shas = ",".join(
            client.script_load(source(verb)) for verb in ("claim", "report", "reported")
        )
        client.close()
        self.env = {
            "BENCH_STAMPS": str(self.file),
            "BENCH_SHAS": shas,
            "BENCH_KEYS": ",".join(NAMES),
        }

    def read(self) -> dict[str, tuple[int, int]]:
        """Return name → (start, end), in nanoseconds since 1970."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return {
            name: (int(begun), int(ended))
            for name, begun, ended in (line.split() for line in lines)
        }

    def gaps(self, work: list[Pair]) -> list[float]:
        """Wait for all, and return the milliseconds from the end of each first job to the start of
        the second.
        """
        until(
            lambda: {pair.second for pair in work} <= self.read().keys(),
            "every pair has run",
            60,
            0.05,
        )
        seen = self.read()
        return [(seen[pair.second][0] - seen[pair.first][1]) / 1e6 for pair in work]


def bare_starts(stamps: Stamps, count: int) -> list[float]:
    """Return the milliseconds from calling Popen to the command's first line: the floor, which no
    queue can avoid.
    """
    found = []
    for _ in range(count):
        name = f"bare-{time.time_ns()}"
        env = {**stamps.env, "GPUQUEUE_JOB_ID": name, "GPUQUEUE_TASK": "run-0"}
        begun = time.time_ns()
        subprocess.Popen(COMMAND, env=env, stdin=subprocess.DEVNULL, start_new_session=True).wait()
        found.append((stamps.read()[name][0] - begun) / 1e6)
    return found


def polling_worker(
    stage: Stage, stamps: Stamps, work: list[Pair], queue: str, interval: float
) -> list[float]:
    """Peer: each job occupies a thread of a plain Celery worker, which polls for a free slot every
    ``interval`` seconds.
    """
    for pair in work:
        _poll(stage, stamps, pair.slot, pair.first, pair.seconds, queue, interval)
    time.sleep(0.1)
    for pair in work:
        _poll(stage, stamps, pair.slot, pair.second, 0, queue, interval)
    return stamps.gaps(work)


def _poll(
    stage: Stage, stamps: Stamps, slot: int, name: str, seconds: float, queue: str, interval: float
) -> None:
    arguments = (f"bench:slot:{slot}", name, seconds, COMMAND, stamps.env, interval)
    stage.app.send_task("bench.poll_and_run", arguments, queue=queue, ignore_result=True)


def tick_loop(stamps: Stamps, work: list[Pair], tick: float) -> list[float]:
    """Peer: a loop that starts jobs every ``tick`` seconds. It detects the end of a job immediately
    and at no cost.
    """
    free = dict.fromkeys((pair.slot for pair in work), True)
    line = [(pair.slot, pair.first, pair.seconds) for pair in work] + [
        (pair.slot, pair.second, 0.0) for pair in work
    ]

    def job(slot: int, name: str, seconds: float) -> None:
        env = {**stamps.env, "GPUQUEUE_JOB_ID": name, "GPUQUEUE_TASK": f"run-{seconds}"}
        subprocess.run(
            COMMAND, env=env, stdin=subprocess.DEVNULL, start_new_session=True, check=True
        )
        free[slot] = True

    while line:
        for each in list(line):
            if free[each[0]]:
                free[each[0]] = False
                line.remove(each)
                threading.Thread(target=job, args=each).start()
        time.sleep(tick)
    return stamps.gaps(work)
