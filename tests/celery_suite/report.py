"""Sums the outcomes up, as JSON and as the table of the docs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import celery

from tests.celery_suite.routes import GPU, PLAIN
from tests.celery_suite.side import WORST
from tests.celery_suite.verdict import Outcomes, alone
from tests.chaos.report import about

SIDES = {GPU: "GPU queues", PLAIN: "plain worker"}
TOTAL = "all"


def summary(sides: dict[str, Outcomes], minutes: float) -> dict[str, Any]:
    """Return the counts of each file, and the tests that fail on GPU queues alone."""
    files = dict.fromkeys(test.partition("::")[0] for test in sides[GPU])
    rows = [
        {"file": file.rpartition("/")[2] or TOTAL}
        | {side: _counted(outcomes, file) for side, outcomes in sides.items()}
        for file in (*sorted(files), "")
    ]
    failing = [test for test in sides[GPU] if alone(test, sides[GPU], sides[PLAIN])]
    facts = about() | {"minutes": round(minutes, 1), "celery": celery.__version__}
    return {"about": facts, "files": rows, "alone": sorted(failing)}


def _counted(outcomes: Outcomes, file: str) -> dict[str, Any]:
    chosen = [outcome for test, outcome in outcomes.items() if test.startswith(file)]
    counts = Counter(each.outcome for each in chosen)
    return {word: counts[word] for word in reversed(WORST) if counts[word]} | {
        "seconds": round(sum(each.seconds for each in chosen))
    }


def table(found: dict[str, Any]) -> str:
    """Return the counts as a table in Markdown."""
    columns = ["file", *(cell for name in SIDES.values() for cell in (name, "seconds"))]
    lines = [columns, ["---"] * len(columns)]
    for row in found["files"]:
        cells = [f"`{row['file']}`" if row["file"] != TOTAL else TOTAL]
        for side in SIDES:
            said = (f"{n} {word}" for word, n in row[side].items() if word != "seconds")
            cells += [", ".join(said), str(row[side]["seconds"])]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
