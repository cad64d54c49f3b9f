"""Runs schedules: ``python -m tests.chaos --schedules 100``; ``--seed 17 --schedules 1`` repeats
one. Each launcher runs in a process beside the other.
"""

from __future__ import annotations

import argparse
import datetime as dt
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

import psutil

from tests.chaos.report import LOSING, add, tables, total, write
from tests.chaos.runner import run
from tests.support.launching import KUBERNETES, LOCAL

ROOT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for; answers 1 if a promise was broken."""
    options = parse(arguments)
    launchers = [LOCAL, KUBERNETES] if options.launcher == "both" else [options.launcher]
    share = -(-options.schedules // len(launchers))
    seeds = list(range(options.seed, options.seed + share))
    until = time.monotonic() + 60 * options.minutes
    rows: dict[str, dict[str, Any]] = {}
    failures, traces = [], options.traces
    began, done = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        context = multiprocessing.get_context("spawn")
        results: Queue[Any] = context.Queue()
        processes = [
            context.Process(
                target=run, args=(each, seeds, until, Path(folder), results, options.only)
            )
            for each in launchers
        ]
        for process in processes:
            process.start()
        ended = 0
        while ended < len(processes):
            try:
                found = results.get(timeout=5)
            except Empty:
                assert any(each.is_alive() for each in processes), "a launcher's process died"
                continue
            if found is None:
                ended += 1
                continue
            row, kind, seed, seconds, problems, why = found
            done += 1
            add(rows, row)
            broken = bool(problems) and row["fault"] not in LOSING
            print(
                f"{done:4} {kind} seed {seed} {seconds:5.1f} s {row['fault']}:"
                f" {'; '.join(problems) or 'ok'}",
                flush=True,
            )
            if broken:
                failures.append(
                    {"launcher": kind, "seed": seed, "fault": row["fault"], "problems": problems}
                )
            if problems and traces:
                traces.mkdir(parents=True, exist_ok=True)
                (traces / f"{kind}-{seed}.txt").write_text("\n".join([*problems, why]))
        for process in processes:
            process.join()
    kept = [row for row in rows.values() if row["fault"] not in LOSING]
    result = {
        "about": about(options, time.monotonic() - began),
        "rows": list(rows.values()),
        "total": total(kept, "total"),
        "failures": failures,
    }
    for each in tables(result):
        print(f"\n{each}")
    if options.output:
        write(options.output, result)
    for failure in failures:
        print(
            f"\nseed {failure['seed']} broke a promise: make chaos SEED={failure['seed']}"
            f" SCHEDULES=1 LAUNCHER={failure['launcher']}",
            *failure["problems"],
            sep="\n  ",
        )
    return 1 if failures else 0


def about(options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Return what a reader needs to judge and repeat the result."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "commit": commit,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "minutes": round(seconds / 60, 1),
        "seed": options.seed,
        "launcher": options.launcher,
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--schedules", type=int, default=100, help="of all launchers together")
    parser.add_argument("--launcher", choices=(LOCAL, KUBERNETES, "both"), default="both")
    parser.add_argument("--minutes", type=float, default=600.0, help="no schedule begins later")
    parser.add_argument("--only", default="", help="faults with this in their name")
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    parser.add_argument("--traces", type=Path, help="a folder for what failed schedules wrote")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
