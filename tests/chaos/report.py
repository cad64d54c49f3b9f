"""Sums schedules up, as JSON and as the table of the docs."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.faults import FAULTS
from tests.chaos.play import Played

ROOT = Path(__file__).parents[2]
#: Column of the table → field of a row.
COLUMNS = {
    "fault": "fault",
    "schedules": "schedules",
    "jobs": "jobs",
    "lost": "lost",
    "run twice": "twice",
    "results contradicted": "contradicted",
    "side by side": "beside",
    "slots leaked": "leaked",
    "longest stall": "stall",
}
COUNTS = ("schedules", "jobs", "lost", "twice", "contradicted", "beside", "leaked", "again")
#: The rows for which the docs promise less than zeros.
LOSING = tuple(name for name, kind in FAULTS.items() if kind.loses_state)


def row_of(played: Played) -> dict[str, Any]:
    """Return a schedule as a row."""
    verdict = played.verdict
    kinds = [fault.kind for fault in played.schedule.faults]
    lossy = [kind for kind in kinds if kind in LOSING]
    return {
        "fault": lossy[0] if lossy else played.schedule.row,
        "schedules": 1,
        "jobs": verdict.jobs,
        "lost": len(verdict.lost),
        "twice": len(verdict.twice),
        "contradicted": len(verdict.contradicted),
        "beside": len(verdict.beside),
        "leaked": len(verdict.leaked),
        "again": verdict.again,
        "stall": round(verdict.stall, 2),
    }


def add(rows: dict[str, dict[str, Any]], row: dict[str, Any]) -> None:
    """Add a row to those of the same fault."""
    known = rows.setdefault(row["fault"], {**row, **dict.fromkeys(COUNTS, 0), "stall": 0.0})
    for count in COUNTS:
        known[count] += row[count]
    known["stall"] = max(known["stall"], row["stall"])


def total(rows: Iterable[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the sum of rows."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        add(found, row | {"fault": name})
    return found.get(name, {"fault": name, **dict.fromkeys(COUNTS, 0), "stall": 0.0})


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a table in Markdown."""
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    for row in rows:
        shown = [
            f"{row[name]:.1f} s" if name == "stall" else row[name] for name in COLUMNS.values()
        ]
        lines.append(" | ".join(map(str, shown)))
    return "\n".join(f"| {line} |" for line in lines)


def tables(found: dict[str, Any]) -> list[str]:
    """Return the tables of a result: faults for which the docs promise zeros, then the others."""
    rows = sorted(found["rows"], key=lambda row: str(row["fault"]).lower())
    kept = [row for row in rows if row["fault"] not in LOSING]
    losing = [row for row in rows if row["fault"] in LOSING]
    return [table([*kept, total(kept, "total")]), table(losing)]


def about() -> dict[str, Any]:
    """Return the commit, the date and the size of this machine."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "commit": done.stdout.strip(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
    }


def facts(about: dict[str, Any]) -> str:
    """Return the sentence that says where a result comes from."""
    return (
        f"Commit {about['commit']}, {about['date']}, {about['cores']} cores,"
        f" {about['memory_gib']} GiB of memory, {about['minutes']} minutes."
    )


def write(path: Path, found: dict[str, Any]) -> None:
    """Write the result atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(path)
