"""How long jobs wait in the replay of real workloads, and whether the promise holds throughout.

Measured: the jobs of two traces on 4 GPUs with 4 shared slots each, with the real scripts on a real
Redis and a simulated clock: the replay does not sleep. The T4 trace once as a batch, once with its
arrivals compressed until it saturates the GPUs; the first 4,000 jobs of the GenAI trace with 10, 20
and 30 % of them made exclusive by a fixed seed; and a batch of equal tenants. Each once as
recorded, and once charged: each of N shared jobs on a GPU takes 1.11 × N as long while they share
it, a model of saturating jobs that slow one another.

Peers, with the same events: strict FIFO; "exclusive waits for idle" on a tick of 0.5 s, for an idle
GPU and for an idle class; phase-fair; and gpuqueue with all GPUs as one domain, or with jobs that
declare time limits. All but those are small simulators, whose decisions take no time.

Figures of each: makespan, and over a bound that no schedule beats; waits; how many later shared
jobs overtook the first exclusive job, until a domain drained for it and in all; exclusive starts in
a row while shared jobs waited; Jain's index over tenants, or over jobs without any; the share of
slots in use. Decisions per second: the calls that take a message in or free a slot, one after the
other, as one caller sees them.

Aims, T4 as a batch: makespan ≤ 1.03 of the bound, at most K overtake before a domain drains,
exclusive p99 wait ≤ 0.4 and shared p99 wait ≤ 1.1 of "waits for an idle GPU"; Jain ≥ 0.99 for equal
tenants.

BENCH_TRACES (or ``--traces``) names the directory of ``t4_openb.csv`` and ``genai_short.csv``,
which are not part of the project; where one is absent, synthetic jobs are made from a seed.
BENCH_PICTURE names the HTML page to write, with waits and slots over time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, Sample, Size
from benchmarks.replay.loop import Played, Scheduler, play
from benchmarks.replay.measures import UNITS, measure
from benchmarks.replay.ours import DEVICE, Ours, classes
from benchmarks.replay.page import Shown, page
from benchmarks.replay.peers import Fifo, PhaseFair, WaitForIdle, WaitForIdleClass
from benchmarks.replay.scenarios import SHAPE, Scenario, scenarios
from benchmarks.replay.tables import tables
from benchmarks.replay.traces import CHARGE
from benchmarks.stage import Stage
from gpuqueue.store.client import Redis
from tests.support.model_time import model_time

__all__ = ["PICTURE", "run", "tables"]

PATIENCE = 8
#: Other bounds on overtaking than the defaults (K = 8, M = 1).
BOUNDS: dict[str, dict[str, Any]] = {
    "gpuqueue, K = 2": {"exclusive_patience": 2},
    "gpuqueue, M = 4": {"shared_patience": 4},
    "gpuqueue, M = 8": {"shared_patience": 8},
    "gpuqueue, K = 1, M = 4": {"exclusive_patience": 1, "shared_patience": 4},
}
#: The time limit of a job that declares one, over the time that it takes.
LIMITS = 2.0
NAIVE = WaitForIdle.label
PICTURE = Path(__file__).parents[1] / "results" / "replay.html"


def run(size: Size) -> list[Figure]:
    """Measure it, and draw the picture."""
    folder = Path(os.environ["BENCH_TRACES"]) if os.environ.get("BENCH_TRACES") else None
    figures: list[Figure] = []
    shown: list[Shown] = []
    rates: dict[str, list[float]] = {}
    with Stage() as stage, model_time():
        for scenario in scenarios(folder, size):
            schedules: dict[str, Played] = {}
            measured: dict[str, dict[str, float]] = {}
            for scheduler in _schedulers(stage.client, scenario):
                played = play(scenario.jobs, scheduler, SHAPE, charged=scenario.charged)
                schedules[scheduler.label] = played
                measured[scheduler.label] = measure(
                    scenario.jobs,
                    played,
                    SHAPE,
                    charged=scenario.charged,
                    whole=scheduler.whole,
                    by_share=scenario.by_share,
                )
                if isinstance(scheduler, Ours):
                    rates.setdefault(scheduler.label, []).append(scheduler.rate)
            figures += [_figure(scenario, name, measured) for name in UNITS]
            shown.append(Shown(scenario, schedules, measured))
    ours, *others = (Sample(label, tuple(values)) for label, values in rates.items())
    figures.append(Figure("decisions of one caller", "/s", ours, tuple(others)))
    picture = Path(os.environ.get("BENCH_PICTURE") or PICTURE)
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(page(shown, SHAPE), encoding="utf-8")
    return figures


def _schedulers(client: Redis, scenario: Scenario) -> Iterator[Scheduler]:
    """Yield ours, then the peers. Each is for one schedule; ours empties the Redis first."""
    charged = scenario.charged
    for label, gpu_class in classes(SHAPE, PATIENCE).items():
        whole = gpu_class.exclusive_slots == SHAPE.gpus
        yield Ours(client, gpu_class, SHAPE, label, whole=whole)
        if not whole:  # which domain drains depends on the limits that jobs declare
            limits = LIMITS * (CHARGE * SHAPE.slots if charged else 1)
            yield Ours(client, gpu_class, SHAPE, f"{label}, limits", whole=False, limits=limits)
    for label, bounds in BOUNDS.items() if scenario.bounds else ():
        gpu_class = replace(classes(SHAPE, PATIENCE)[DEVICE], **bounds)
        yield Ours(client, gpu_class, SHAPE, label, whole=False)
    for kind in (Fifo, WaitForIdle, WaitForIdleClass, PhaseFair):
        yield kind(SHAPE)


def _figure(scenario: Scenario, name: str, measured: dict[str, dict[str, float]]) -> Figure:
    ours, *peers = (Sample(label, (values[name],)) for label, values in measured.items())
    naive = next(peer for peer in peers if peer.label == NAIVE).middle
    at_most, at_least = None, None
    aim = ""
    if scenario.name.startswith("T4 as a batch") and not scenario.charged:
        limits = {
            "makespan ÷ bound": (1.03, "≤ 1.03"),
            "overtaken before a drain": (PATIENCE, f"≤ {PATIENCE}"),
            "exclusive wait, p99": (0.4 * naive, f"≤ 0.4 of {NAIVE}"),
            "shared wait, p99": (1.1 * naive, f"≤ 1.1 of {NAIVE}"),
        }
        at_most, aim = limits.get(name, (None, ""))
    elif scenario.by_share and name == "Jain index":
        at_least, aim = 0.99, "≥ 0.99"
    met = (
        ours.middle <= at_most
        if at_most is not None
        else (ours.middle >= at_least if at_least is not None else None)
    )
    return Figure(
        f"{scenario.title}: {name}",
        UNITS[name],
        ours,
        tuple(peers),
        aim=aim,
        met=met,
        note=scenario.what if name == "makespan" else "",
    )
