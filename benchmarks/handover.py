"""The gap between the end of one job and the start of the next on the same slot.

Measured: pairs of jobs (see pairs.py) with the real dispatcher and LocalLauncher, and the smallest
possible executor, which records the time at its first and last line. The gap is the time from the
last line to the next first line, minus the floor: the time from a bare ``subprocess.Popen`` of the
same command to its first line, measured just before in the same round. Percentiles cover all pairs
of all rounds; the spread covers the rounds. Round trips: the commands in MONITOR from a job's last
line until the call of the launcher for the next job, one pair at a time. MULTI to EXEC counts as
one (redis-py sends them together), and commands inside scripts do not count. Peers, with the same
command and run times: a Celery task that occupies a worker thread and polls a semaphore in Redis
every second, and a loop that starts jobs every 0.5 s. The floor is subtracted from the peers as
well. Aims: p50 ≤ 10 ms; at most 2 round trips.
"""

from __future__ import annotations

import json
import statistics
import time

from benchmarks.harness import Figure, Sample, Size, percentile
from benchmarks.messages import Template, template
from benchmarks.monitor import Monitor, round_trips
from benchmarks.pairs import COMMAND, Pair, Stamps, bare_starts, pairs, polling_worker, tick_loop
from benchmarks.parts import Parts
from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.base import Launcher, Observations, OnEnd
from gpuqueue.launchers.local.launcher import LocalLauncher
from gpuqueue.model.record import Record

AIM_MS, AIM_TRIPS = 10.0, 2
POLL, TICK = 1.0, 0.5


class _Noting(LocalLauncher):
    """Records the time of each call and its job, in nanoseconds since 1970."""

    called: dict[str, int]

    def start(self, record: Record) -> str:
        self.called[record["id"]] = time.time_ns()
        return super().start(record)


class Ours:
    """A dispatcher without the Celery consumer and the watcher, which a handover does not need; one
    class per slot.
    """

    def __init__(self, stage: Stage, stamps: Stamps, slots: int) -> None:
        classes = {f"c{slot}": GpuClass(f"c{slot}", shared_slots=1) for slot in range(slots)}
        settings = {**stamps.env, "GPUQUEUE_REDIS_URL": stage.url()}
        self.launcher: _Noting

        def make(on_end: OnEnd, _: Observations) -> Launcher:
            self.launcher = _Noting(on_end, settings, 60, command=COMMAND)
            self.launcher.called = {}
            return self.launcher

        self._parts = Parts(stage, classes, make)
        for name in classes:
            self._parts.line.open(name)
        self._made: dict[int, Template] = {
            slot: template(stage.app, f"gpu.c{slot}.shared", stage.client) for slot in range(slots)
        }
        self._stamps = stamps

    def gaps(self, work: list[Pair]) -> list[float]:
        """Run pairs; return the unadjusted gaps in milliseconds."""
        for pair in work:
            self._accept(pair.slot, pair.first, pair.seconds)
        for pair in work:
            self._accept(pair.slot, pair.second, 0)
        return self._stamps.gaps(work)

    def _accept(self, slot: int, name: str, seconds: float) -> None:
        made = self._made[slot]
        text = json.dumps(made.copy(task=f"run-{seconds}"))
        packed = json.loads(text)
        packed["headers"]["id"] = name
        self._parts.accept(packed)

    def close(self) -> None:
        """End its threads."""
        self._parts.close()


def run(size: Size) -> list[Figure]:
    """Measure it."""
    slots, rounds = size.of(16, 8), size.of(6, 2)
    with Stage() as stage:
        stamps = Stamps(stage)
        stage.worker("polling", "threads", 2 * slots, BENCH_PREFETCH="1")
        ours = Ours(stage, stamps, slots)
        ours.gaps(pairs(slots, "warm"))
        floors: list[list[float]] = []
        found: dict[str, list[list[float]]] = {"ours": [], "poll": [], "tick": []}
        called: list[list[float]] = []
        for turn in range(rounds):
            floors.append(bare_starts(stamps, 10))
            work = pairs(slots, f"ours-{turn}")
            found["ours"].append(ours.gaps(work))
            seen = stamps.read()
            called.append(
                [(ours.launcher.called[pair.second] - seen[pair.first][1]) / 1e6 for pair in work]
            )
            found["poll"].append(
                polling_worker(stage, stamps, pairs(slots, f"poll-{turn}"), "polling", POLL)
            )
            found["tick"].append(tick_loop(stamps, pairs(slots, f"tick-{turn}"), TICK))
        trips = _round_trips(stage, stamps, ours, size.of(8, 3))
        ours.close()
    least = [statistics.median(turn) for turn in floors]
    net = {
        side: [[gap - floor for gap in turn] for turn, floor in zip(turns, least, strict=True)]
        for side, turns in found.items()
    }
    figures = []
    for share in (0.5, 0.9, 0.99):
        mine = _sample("hand-over", net["ours"], share)
        peers = (
            _sample("worker that polls each 1 s", net["poll"], share),
            _sample("loop that ticks each 0.5 s", net["tick"], share),
        )
        floor_ms = _sample("bare Popen to first line (taken off)", floors, share)
        aim, met = (f"≤ {AIM_MS:g} ms", mine.middle <= AIM_MS) if share == 0.5 else ("", None)
        figures.append(
            Figure(
                f"gap between jobs on a slot, p{share * 100:g}",
                "ms",
                mine,
                peers,
                floor_ms,
                aim,
                met,
            )
        )
    decided = _sample("until the launcher is called", called, 0.5)
    return [
        *figures,
        Figure("of this, last line → launcher called, p50", "ms", decided),
        Figure(
            "round trips to hand a slot over",
            "round trips",
            trips,
            aim=f"≤ {AIM_TRIPS}",
            met=trips.middle <= AIM_TRIPS,
        ),
    ]


def _sample(label: str, turns: list[list[float]], share: float) -> Sample:
    everything = [gap for turn in turns for gap in turn]
    return Sample(
        label, tuple(percentile(turn, share) for turn in turns), percentile(everything, share)
    )


def _round_trips(stage: Stage, stamps: Stamps, ours: Ours, times: int) -> Sample:
    """Run one pair at a time, so that all commands between the two belong to this handover."""
    counts, verbs = [], ""
    with Monitor(stage.url()) as monitor:
        done = [pairs(1, f"trips-{turn}")[0] for turn in range(times)]
        for pair in done:
            ours.gaps([pair])
            time.sleep(0.1)
    seen = stamps.read()
    for pair in done:
        from_, to = seen[pair.first][1] / 1e9, ours.launcher.called[pair.second] / 1e9
        between = [each for each in monitor.commands if each.port and from_ <= each.at <= to]
        trips = round_trips(between)
        counts.append(float(len(trips)))
        verbs = ", ".join(trips)
    return Sample(verbs, tuple(counts))
