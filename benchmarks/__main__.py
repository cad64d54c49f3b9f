"""``python -m benchmarks [names...] [--quick] [--output FILE] [--traces DIRECTORY]``.

The exit status is 0 even if an aim is missed; the table shows it. It is 1 if a benchmark fails; all
others still run, and their results are written.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import NAMES
from benchmarks.harness import Figure, Size
from benchmarks.report import machine, show, write

OUTPUT = Path(__file__).with_name("results") / "latest.json"


def main(arguments: list[str] | None = None) -> int:
    """Run the selected benchmarks; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure each figure beside its peer, in the same run.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"benchmarks to run (default: all): {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes, under a minute: a functional check, not for publication",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=OUTPUT,
        help="file for the JSON results (default: %(default)s)",
    )
    parser.add_argument(
        "--traces",
        type=Path,
        help="directory of the recorded traces, which are not part of the project (default:"
        " BENCH_TRACES)",
    )
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(NAMES)}")
    if chosen.traces:
        if not chosen.traces.is_dir():
            parser.error(f"--traces {chosen.traces}: no such directory")
        os.environ["BENCH_TRACES"] = str(chosen.traces)
    os.environ.setdefault("BENCH_PICTURE", str(chosen.output.with_name("replay.html")))
    console = Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "150")))
    facts = machine()
    console.print(
        f"{facts['cores']} cores, Python {facts['python']}, Redis server {facts['redis_server']},"
        f" {facts['date']}"
    )
    results: dict[str, Any] = {}
    missed = 0
    failed: list[str] = []
    begun = time.monotonic()
    for name in NAMES:
        if chosen.names and name not in chosen.names:
            continue
        module = importlib.import_module(f"benchmarks.{name}")
        from_ = time.monotonic()
        try:
            figures: list[Figure] = module.run(Size(chosen.quick))
        except Exception as exc:  # the other figures remain valid
            traceback.print_exc()
            failed.append(name)
            results[name] = {
                "what": module.__doc__,
                "error": f"{type(exc).__name__}: {exc}",
                "figures": [],
            }
            continue
        took = time.monotonic() - from_
        results[name] = {
            "what": module.__doc__,
            "seconds": round(took, 1),
            "figures": [each.shape() for each in figures],
        }
        missed += sum(each.met is False for each in figures)
        show(console, name, figures, took, getattr(module, "tables", None))
    seconds = round(time.monotonic() - begun, 1)
    write(
        chosen.output,
        {"machine": facts, "quick": chosen.quick, "seconds": seconds, "benchmarks": results},
    )
    console.print(
        f"{seconds:.0f} s; aims missed: {missed}; written to {chosen.output}", soft_wrap=True
    )
    if failed:
        console.print(f"[red]failed: {', '.join(failed)}[/]")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
