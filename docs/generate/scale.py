"""The page of what a decision costs where there is much to decide about, from the newest run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docs.generate.markdown import page, table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

WHAT = """
A decision is one script in Redis.
The commands in it do not grow with the state of its class.
Its CPU time grows a little, since they touch more memory.
`python -m benchmarks scale` measures two Redis servers in turns.
The large one has 1,000 classes; one has 1,000 domains, 100,000 waiting jobs and 5,000 tenants.
The small one has 10 classes; one has 10 domains, 100 waiting jobs and 10 tenants.
All slots are held, one job in eight is exclusive, and half of them have a time limit.
"""

VERBS = """
- **release**: a slot is freed, and the jobs that start next are returned.
- **take_in**: a job comes into line.
- **admit**: no job can start.
- **turn**: what the leader does in a class about once per second.
"""

ALLOCATOR = """
A script makes hundreds of small objects, so it needs an allocator that keeps them together.
The Redis and Valkey of distributions use jemalloc.
The server that `gpuqueue dev` starts uses that of libc: a large state doubles the CPU time there.
Other processes on the machine slow both states down, and the large one more.
Each call of a script makes all its functions again, and Redis looks for garbage in all scripts.
So a script is sent without the functions of its library that it does not reach.
"""


def newest() -> Path:
    """Return the newest run that was kept."""
    return max(RESULTS.glob("20*-scale.json"))


def make() -> str:
    """Make the page."""
    run = newest()
    known = json.loads(run.read_text())
    machine = known["machine"]
    figures: list[dict[str, Any]] = known["benchmarks"]["scale"]["figures"]
    *costs, handovers = figures
    return page(
        "Speed of decisions",
        WHAT,
        VERBS,
        table(
            ("script", "large state", "small state", "ratio", "aim"),
            [_row(each) for each in costs],
        ),
        f"The large Redis had CPU time for {handovers['ours']['median']:,.0f} handovers per second"
        f" (aim: {_aim(handovers)}).",
        f"The figures are those of `benchmarks/results/{run.name}`, medians on a machine of"
        f" {machine['cores']} cores with a load of {machine['load_at_start'][0]:.1f} by others,"
        f" and Redis {machine['redis_server']}.",
        "## What else counts",
        ALLOCATOR,
    )


def _row(figure: dict[str, Any]) -> tuple[str, ...]:
    [peer] = figure["peers"]
    shown = [f"{each['median']:,.0f} {figure['unit']}" for each in (figure["ours"], peer)]
    return figure["name"], *shown, f"{peer['ratio']:.2f}", _aim(figure)


def _aim(figure: dict[str, Any]) -> str:
    return f"{figure['aim']}, {'met' if figure['met'] else 'missed'}" if figure["aim"] else "–"
