"""Runs schedules: ``python -m tests.chaos --schedules 100``; ``--seed 17 --schedules 1`` repeats
one. Each launcher runs in a process beside the other.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

from tests.chaos.report import LOSING, about, add, tables, total, write
from tests.chaos.runner import Outcome, run
from tests.support.launching import KUBERNETES, LOCAL


def main(arguments: list[str]) -> int:
    """Run what the arguments ask for; answers 1 if a promise was broken."""
    options = parse(arguments)
    launchers = [LOCAL, KUBERNETES] if options.launcher == "both" else [options.launcher]
    share = -(-options.schedules // len(launchers))
    seeds = list(range(options.seed, options.seed + share))
    began = time.monotonic()
    result: dict[str, Any] = {"about": about() | {"seed": options.seed}, "rows": []}
    result |= {"total": total([], "total"), "failures": []}
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        until = began + 60 * options.minutes
        for done, each in enumerate(
            played(launchers, seeds, until, Path(folder), options.only), start=1
        ):
            take(each, result, rows, options.traces)
            print(f"{done:4} {each.line()}", flush=True)
            result["about"]["minutes"] = round((time.monotonic() - began) / 60, 1)
            if options.output:  # so that a run that is ended early leaves what it has
                write(options.output, result)
    for table in tables(result):
        print(f"\n{table}")
    for failure in result["failures"]:
        print(
            f"\nseed {failure['seed']} broke a promise: make chaos SEED={failure['seed']}"
            f" SCHEDULES=1 LAUNCHER={failure['launcher']}",
            *failure["problems"],
            sep="\n  ",
        )
    return 1 if result["failures"] else 0


def played(
    launchers: list[str], seeds: list[int], until: float, folder: Path, only: str
) -> Iterator[Outcome]:
    """Run the schedules, each launcher in a process; yields as they end."""
    context = multiprocessing.get_context("spawn")
    results: Queue[Any] = context.Queue()
    processes = [
        context.Process(target=run, args=(each, seeds, until, folder, results, only))
        for each in launchers
    ]
    for process in processes:
        process.start()
    ended = 0
    while ended < len(processes):
        try:
            found = results.get(timeout=5)
        except Empty:
            assert any(each.is_alive() for each in processes), "the process of a launcher died"
            continue
        if found is None:
            ended += 1
        else:
            yield found
    for process in processes:
        process.join()


def take(
    each: Outcome, result: dict[str, Any], rows: dict[str, dict[str, Any]], traces: Path | None
) -> None:
    """Add a schedule to the result."""
    add(rows, each.row)
    result["rows"] = list(rows.values())
    kept = [row for row in rows.values() if row["fault"] not in LOSING]
    result["total"] = total(kept, "total")
    if each.problems and each.row["fault"] not in LOSING:
        failure = {"launcher": each.kind, "seed": each.seed, "fault": each.row["fault"]}
        result["failures"].append(failure | {"problems": each.problems})
    if each.problems and traces:
        traces.mkdir(parents=True, exist_ok=True)
        text = "\n".join([*each.problems, each.why])
        (traces / f"{each.kind}-{each.seed}.txt").write_text(text)


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
