"""The page of the replay, from the newest run that was kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.replay import BOUNDS
from benchmarks.replay.ours import DEVICE, WHOLE
from benchmarks.replay.tables import COLUMNS, Report, reports
from docs.generate.markdown import lines, page, table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
#: The scenarios of the page; the results have all, with more columns.
SHOWN = ("T4 as a batch, as", "T4 as arrived, charged", "GenAI, 20 % exclusive, as", "Equal")
#: Columns of the results that the page leaves out, and a scheduler.
LEFT_OUT = ("Jain", "slots used")
NOT_SHOWN = "waits for an idle class"

METHOD = """
`make bench replay` plays recorded jobs on 4 GPUs with 4 shared slots each.
An exclusive job takes a whole GPU.
gpuqueue is its scripts on a real Redis, called as dispatchers and executors call them.
The other schedulers are small simulators in the same loop of events.
All have the same simulated clock.

- **As recorded**: jobs that share a GPU do not slow one another.
- **Charged 1.11 × N**: each of N jobs on one GPU takes 1.11 × N as long while they share it.

The truth lies between the two.
"""

SCHEDULERS = {
    DEVICE: "each GPU is a domain of its class.",
    f"{DEVICE}, limits": "the same, with time limits of twice what the jobs take.",
    **{label: f"the first, with {label.partition(', ')[2]}." for label in BOUNDS},
    WHOLE: "all GPUs are one domain: beside an exclusive job no shared one runs.",
    "strict FIFO": "a job that cannot start blocks all behind it.",
    "waits for an idle GPU": "every 0.5 s, each job starts that can; an exclusive one needs an idle"
    " GPU.",
    "phase-fair": "on each GPU, both kinds take turns; as many GPUs drain as exclusive jobs wait.",
}

MEANING = """
- **Makespan ÷ bound**: when the last job ends, over a time that no schedule beats.
- **Overtaken before a drain**: later shared jobs that started while the same exclusive job was
  first in line, as long as every GPU with shared jobs took more of them; the most of any job.
- **Overtaken in all**: the same until the exclusive job started, also on GPUs that do not drain.
- **In a row**: exclusive jobs that started one after the other while shared jobs waited.
- **Jain**: Jain's index over tenants; 1 is even.
"""

AIMS = """
The makespan, and its bound, are those of one exclusive job of 30 days.
The exclusive jobs ahead of it start first, and take turns with shared ones.
With a larger M or a smaller K it starts sooner, and shared jobs wait longer.
No bounds that were tried reach both aims.
No order of arrival can reach the aim of the exclusive wait, as that scenario's table says.
"""

COMMAND = """
The traces are not part of the project.
`t4_openb.csv` and `genai_short.csv` are derived from the openb and GenAI traces of Alibaba.
`TRACES` names their directory.
Without it, synthetic jobs are made from a seed, and the tables say so.

```sh
make bench replay TRACES=../traces
```

It prints all tables, and writes `latest.json` to `benchmarks/results`.
`replay.html` beside it is a picture of waits and slots over time.
"""


def newest() -> Path:
    """Return the newest run of the replay that was kept."""
    return max(RESULTS.glob("20*-replay.json"))


def make() -> str:
    """Make the page."""
    run = newest()
    known = json.loads(run.read_text())
    machine = known["machine"]
    figures: list[dict[str, Any]] = known["benchmarks"]["replay"]["figures"]
    found = [each for each in reports(figures) if each.title.startswith(SHOWN)]
    labels = [row[0] for row in found[0].rows if row[0] != NOT_SHOWN]
    decisions = next(each for each in figures if each["name"] == "decisions of one caller")
    per_second = decisions["ours"]["median"]
    return page(
        "Replay of real workloads",
        METHOD,
        "\n".join(f"- **{label}**: {SCHEDULERS[label]}" for label in labels),
        f"The figures are those of `benchmarks/results/{run.name}`, which has more scenarios"
        " and schedulers.",
        "## Aims",
        table(
            ("scenario", "aim", "reached"),
            [(each.title, *_aim(aim)) for each in found for aim in each.aims],
        ),
        lines(" ".join(AIMS.split())),
        f"One caller had {per_second:,.0f} decisions per second, on a machine of"
        f" {machine['cores']} cores with a load of {machine['load_at_start'][0]:.1f} by others.",
        "## Figures",
        *(part for each in found for part in _section(each)),
        "## What the columns mean",
        MEANING,
        "## Run it",
        COMMAND,
    )


def _aim(text: str) -> tuple[str, str]:
    aim, _, reached = text.partition(": ")
    return aim, reached


def _section(report: Report) -> tuple[str, str, str]:
    tenants = report.title.startswith(SHOWN[-1])
    heads = ["scheduler", *COLUMNS]
    shown = ("scheduler", "Jain") if tenants else (each for each in heads if each not in LEFT_OUT)
    kept = [heads.index(name) for name in shown]
    rows = [[row[place] for place in kept] for row in report.rows if row[0] != NOT_SHOWN]
    columns = [heads[place] for place in kept]
    return f"### {report.title}", lines(report.what), table(columns, rows)
