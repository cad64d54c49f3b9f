"""How often a job starts within the range that `gpuqueue why` gives for its start.

Measured: the replay's T4 trace as arrived, and its GenAI trace with 20 % of the jobs exclusive, on
the real scripts and a simulated clock, a domain for each GPU; as recorded: jobs that share a GPU do
not slow one another. A fixed seed samples the arrivals. The start of each sampled job that has to
wait is forecast at its arrival, from what Redis knows by then: no declared limit, only the run
times and arrivals of late. Later the start is compared with the forecast.

Figures of each: the share of starts within the range that is said to hold 80 %; the same for other
parts; the starts before and after that range; the ranges without an end, and how wide the others
are; the forecasts that gave no range; the CPU time of a forecast, reads included.

Aim: 75 to 85 % within the range of 80 %.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Figure, Sample, Size
from benchmarks.replay.loop import Start, play
from benchmarks.replay.ours import DEVICE, Ours, classes
from benchmarks.replay.scenarios import SHAPE, Scenario, scenarios
from benchmarks.replay.traces import Job
from benchmarks.stage import Stage
from gpuqueue.forecast.simulate import HOLDS, Starts, starts
from gpuqueue.store.client import Redis
from gpuqueue.store.snapshots import Snapshots
from tests.support.model_time import model_time

PATIENCE = 8
SHOWN = ("T4 as arrived", "GenAI, 20 % exclusive")
#: The parts of the starts that ranges are said to hold.
PARTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, HOLDS, 0.9)
LEAST, MOST = 0.75, 0.85
#: How many jobs are asked about, if they have to wait.
ASKED = 480


@dataclass(frozen=True, slots=True)
class Asked:
    """A forecast, and the CPU time that it took."""

    number: int
    starts: Starts
    seconds: float


class Asking(Ours):
    """Ours, and a forecast of some of the jobs that wait, when they arrive."""

    asked: list[Asked]

    def ask_about(self, numbers: Sequence[int]) -> None:
        """Choose the jobs."""
        self.asked, self._numbers = [], set(numbers)

    def arrive(self, job: Job, now: float) -> list[Start]:
        """Take a message in, then ask."""
        begun = super().arrive(job, now)
        if job.number in self._numbers and all(each.number != job.number for each in begun):
            before = time.process_time()
            reader = Snapshots(self.client, self._class)
            snapshot = reader.read(str(job.number), self.now)
            found = starts(snapshot, str(job.number), reader.run_times(snapshot))
            self.asked.append(Asked(job.number, found, time.process_time() - before))
        return begun


def run(size: Size) -> list[Figure]:
    """Measure it."""
    folder = Path(os.environ["BENCH_TRACES"]) if os.environ.get("BENCH_TRACES") else None
    figures: list[Figure] = []
    with Stage() as stage, model_time():
        for scenario in scenarios(folder, size):
            if scenario.name.startswith(SHOWN) and not scenario.charged:
                figures += _measure(stage.client, scenario, size.of(ASKED, 10))
    return figures


def _measure(client: Redis, scenario: Scenario, most: int) -> Iterator[Figure]:
    ours = Asking(client, classes(SHAPE, PATIENCE)[DEVICE], SHAPE, DEVICE, whole=False)
    chance = random.Random(7)
    jobs = [job.number for job in scenario.jobs]
    ours.ask_about(chance.sample(jobs, min(len(jobs), most)))
    played = play(scenario.jobs, ours, SHAPE, charged=scenario.charged)
    rows = []
    for each in ours.asked:
        run, job = played.runs[each.number], scenario.jobs[each.number]
        rows.append((each, run.start - job.arrival))
    given = [(each.starts, waited) for each, waited in rows if each.starts.earliest() is not None]

    def figure(
        name: str, unit: str, value: float, aim: str = "", met: bool | None = None
    ) -> Figure:
        label = Sample(DEVICE, (value,))
        return Figure(f"{scenario.title}: {name}", unit, label, aim=aim, met=met)

    for part in PARTS:
        value = sum(_holds(each, part, waited) for each, waited in given) / max(1, len(given))
        name = f"starts within the range of {part:.0%}"
        if part == HOLDS:
            aim = f"{LEAST:.0%} to {MOST:.0%}"
            yield figure(name, "%", 100 * value, aim, LEAST <= value <= MOST)
        else:
            yield figure(name, "%", 100 * value)
    yield figure("forecasts compared", "", len(given))
    yield figure("forecasts without a range", "", len(rows) - len(given))
    yield figure("wait, median", "s", statistics.median(waited for _, waited in given))
    for name, value in _shape(given).items():
        yield figure(name, "%", 100 * value)
    yield figure(
        "CPU of a forecast, median",
        "ms",
        1000 * statistics.median(each.seconds for each, _ in rows),
    )
    yield figure("CPU of a forecast, worst", "ms", 1000 * max(each.seconds for each, _ in rows))


def _shape(given: Sequence[tuple[Starts, float]]) -> dict[str, float]:
    """Return what else is known of the ranges of 80 %, and of the starts they were given for."""
    ranges = [(each.earliest() or 0.0, each.latest(), waited) for each, waited in given]
    ended = [(low, high, waited) for low, high, waited in ranges if high is not None]
    widths = [(high - low) / max(waited, 1.0) for low, high, waited in ended]
    within = sum(low <= waited <= high for low, high, waited in ended)
    most = max(1, len(ranges))
    return {
        "starts before the range of 80 %": sum(waited < low for low, _, waited in ranges) / most,
        "starts after the range of 80 %": sum(waited > high for _, high, waited in ended) / most,
        "ranges of 80 % without an end": (len(ranges) - len(ended)) / most,
        "starts within those with an end": within / max(1, len(ended)),
        "width of those with an end, over the wait, median": statistics.median(widths or [0.0]),
    }


def _holds(found: Starts, part: float, waited: float) -> bool:
    low, high = found.earliest(part), found.latest(part)
    return low is not None and low <= waited and (high is None or waited <= high)
