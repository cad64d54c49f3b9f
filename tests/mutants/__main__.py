"""Runs the checks on each mutant; answers 1 if one lives that ``equivalent.toml`` does not list."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import tomllib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.report import about, write
from tests.mutants.check import TESTS, catcher, use
from tests.mutants.derive import Mutant, mutants
from tests.mutants.report import sentence

#: name of a mutant → why it behaves as the script does.
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
#: Seconds for one mutant, or so many times what the scripts as they are take. One that takes longer
#: hangs: Redis is in a loop.
LONGEST, TIMES = 240.0, 4
HANGS = "it hangs"
UNCHANGED = Mutant("none", 0, "the scripts as they are", "unchanged", "")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="mutants with this in their name")
    parser.add_argument(
        "--scripts", nargs="+", metavar="FILE", help="mutants of these scripts (lib/domains.lua)"
    )
    parser.add_argument(
        "--tests", nargs="+", metavar="FILE", help="only these tests, without schedules"
    )
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    parser.add_argument("--again", action="store_true", help="only those that live in the file")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    reasons = equivalent()
    every = mutants(options.scripts)
    chosen = [each for each in every if options.only in each.name]
    result: dict[str, Any] = about() | {"of": len(every), "mutants": 0, "caught": 0}
    result |= {"equivalent": 0, "live": []}
    if options.scripts:
        result["scripts"] = options.scripts
    if options.again:
        result, chosen = again(earlier(options.output, options.scripts), chosen)
    tests = options.tests or TESTS
    began = time.monotonic()
    [(_, broken)] = run([UNCHANGED], 1, tests, TIMES * LONGEST)
    if broken:
        raise SystemExit(f"the checks fail on the scripts as they are: {broken}")
    longest = max(LONGEST, TIMES * (time.monotonic() - began))
    for mutant, by in run(chosen, options.jobs, tests, longest):
        result["mutants"] += 1
        result["caught"] += bool(by)
        if not by and mutant.name in reasons:
            result["equivalent"] += 1
        elif not by:
            result["live"].append(mutant.name)
        print(f"{'caught by ' + by if by else 'LIVES':60} {mutant.name}", flush=True)
        if options.output:
            keep(options.output, result)
    print("\n" + sentence(result), *result["live"], sep="\n")
    return 1 if result["live"] else 0


def earlier(path: Path, scripts: list[str] | None) -> dict[str, Any]:
    """Return the result of an earlier run of all scripts, or of these."""
    whole: dict[str, Any] = json.loads(path.read_text())
    if scripts is None:
        return whole
    parts = [each for each in whole.get("parts", ()) if each["scripts"] == scripts]
    if not parts:
        raise SystemExit(f"{path} has no result of --scripts {' '.join(scripts)}")
    found: dict[str, Any] = parts[0]
    return found


def keep(path: Path, result: dict[str, Any]) -> None:
    """Write a result; that of some scripts stands beside the one of all."""
    if "scripts" in result:
        whole = json.loads(path.read_text()) if path.exists() else {}
        parts = [each for each in whole.get("parts", ()) if each["scripts"] != result["scripts"]]
        result = whole | {"parts": [*parts, result]}
    write(path, result)


def again(result: dict[str, Any], chosen: list[Mutant]) -> tuple[dict[str, Any], list[Mutant]]:
    """Return an earlier result without those that lived, and these: tests for them have come since,
    and the scripts are the same.
    """
    found = [each for each in chosen if each.name in result["live"]]
    if missing := set(result["live"]) - {each.name for each in found}:
        raise SystemExit(f"the scripts have changed, and have no longer: {sorted(missing)}")
    lived = {"mutants": result["mutants"] - len(found), "live": []}
    return result | lived | {"again": about()["commit"]}, found


def equivalent() -> dict[str, str]:
    """Return the mutants that no test can catch, with the reasons."""
    found: dict[str, str] = tomllib.loads(EQUIVALENT.read_text()).get("equivalent", {})
    return found


def run(
    chosen: list[Mutant], jobs: int, tests: Sequence[str], longest: float
) -> Iterator[tuple[Mutant, str]]:
    """Check each mutant in a process forked from this one; yields as they end."""
    waiting = list(reversed(chosen))
    running: dict[int, tuple[Mutant, int, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            reader, writer = os.pipe()
            pid = os.fork()
            if not pid:
                os.close(reader)
                _child(mutant, tests, writer)
            os.close(writer)
            running[pid] = (mutant, reader, time.monotonic())
        for pid, (mutant, reader, began) in list(running.items()):
            ended, _ = os.waitpid(pid, os.WNOHANG)
            hangs = not ended and time.monotonic() - began > longest
            if not ended and not hangs:
                continue
            if hangs:
                _end(pid)
            del running[pid]
            with os.fdopen(reader) as pipe:
                said = f"by {HANGS}" if hangs else pipe.read()
            if not said.startswith("by "):
                raise SystemExit(f"the check of {mutant.name} failed")
            yield mutant, said.removeprefix("by ")
        time.sleep(0.02)


def _child(mutant: Mutant, tests: Sequence[str], writer: int) -> None:
    try:
        use(mutant)
        with os.fdopen(writer, "w") as pipe:
            pipe.write(f"by {catcher(tests)}")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _end(pid: int) -> None:
    process = psutil.Process(pid)
    for each in [*process.children(recursive=True), process]:
        each.send_signal(signal.SIGKILL)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
