"""Runs the checks on each mutant; answers 1 if one lives that ``equivalent.toml`` does not list."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from tests.chaos.report import about, write
from tests.mutants.check import FIXED, TESTS, Checks, Run, Seen
from tests.mutants.derive import Mutant, mutants
from tests.mutants.reach import where
from tests.mutants.report import SOME, are_of_one, names, sentence

#: name of a mutant → why it behaves as the script does.
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
#: Tests that take less than so many seconds come before those that take more.
STEPS = (0.05, 0.3, 1.0, 3.0)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="mutants with this in their name")
    parser.add_argument(
        "--scripts", nargs="+", metavar="FILE", help="mutants of these scripts (lib/domains.lua)"
    )
    parser.add_argument(
        "--since", metavar="COMMIT", help="those that the scripts of a commit do not have"
    )
    parser.add_argument(
        "--tests", nargs="+", metavar="FILE", help="only these tests, without schedules"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="of tests for a mutant, at most: a quick look, after which more live",
    )
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    parser.add_argument(
        "--again", action="store_true", help="only those that live in the file, or were not tried"
    )
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    reasons = equivalent()
    every = mutants(options.scripts, options.since)
    chosen = [each for each in every if options.only in each.name]
    result: dict[str, Any] = about() | {"of": len(every), "mutants": 0, "caught": 0}
    result |= {"equivalent": 0, "live": [], "left": [each.name for each in every]}
    result |= {name: getattr(options, name) for name in SOME if getattr(options, name)}
    if options.again:
        result, chosen = again(earlier(options.output, result), every, chosen)
    checks = Checks(options.tests or TESTS, schedules=not options.tests)

    def work() -> None:
        for mutant, by, tests in run(chosen, options.jobs, checks, options.seconds):
            note(mutant, by, tests)

    def note(mutant: Mutant, by: str, tests: int) -> None:
        result["left"].remove(mutant.name)
        result["mutants"] += 1
        result["caught"] += bool(by)
        if not by and mutant.name in reasons:
            result["equivalent"] += 1
        elif not by:
            result["live"].append(mutant.name)
        said = f"caught by {by.rpartition('/')[2]}" if by else f"LIVES, {tests} tests reach it"
        print(f"{said:60} {mutant.name}", flush=True)
        if options.output:
            keep(options.output, result)

    checks.run(work)
    print("\n" + sentence(result), *result["live"], sep="\n")
    return 1 if result["live"] else 0


def earlier(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of an earlier run of as many mutants."""
    whole: dict[str, Any] = json.loads(path.read_text())
    if not any(name in result for name in SOME):
        return whole
    parts = [each for each in whole.get("parts", ()) if are_of_one(each, result)]
    if not parts:
        raise SystemExit(f"{path} has no result of {names(result)}")
    found: dict[str, Any] = parts[0]
    return found


def keep(path: Path, result: dict[str, Any]) -> None:
    """Write a result; that of some mutants stands beside the one of all."""
    if any(name in result for name in SOME):
        whole = json.loads(path.read_text()) if path.exists() else {}
        parts = [each for each in whole.get("parts", ()) if not are_of_one(each, result)]
        result = whole | {"parts": [*parts, result]}
    write(path, result)


def again(
    result: dict[str, Any], every: list[Mutant], chosen: list[Mutant]
) -> tuple[dict[str, Any], list[Mutant]]:
    """Return an earlier result as if those of the chosen that lived were not tried: tests for them
    have come since, and the scripts are the same. And these, with those that it has left.
    """
    left = [*result["live"], *result.get("left", ())]
    if missing := set(left) - {each.name for each in every}:
        raise SystemExit(f"the scripts have changed, and have no longer: {sorted(missing)}")
    found = [each for each in chosen if each.name in left]
    names = {each.name for each in found}
    live = [name for name in result["live"] if name not in names]
    left = [name for name in left if name not in live]
    tried = result["mutants"] - len(result["live"]) + len(live)
    now = {"mutants": tried, "live": live, "left": left, "again": about()["commit"]}
    return result | now, found


def equivalent() -> dict[str, str]:
    """Return the mutants that no test can catch, with the reasons."""
    found: dict[str, str] = tomllib.loads(EQUIVALENT.read_text()).get("equivalent", {})
    return found


def run(
    chosen: list[Mutant], jobs: int, checks: Checks, seconds: float = math.inf
) -> Iterator[tuple[Mutant, str, int]]:
    """Check each mutant; yields it, what caught it, and how many tests reach it, as they end."""
    waiting = list(reversed(chosen))
    running: dict[Run, tuple[Mutant, int]] = {}
    caught: Counter[tuple[str, str]] = Counter()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            names = order(mutant, checks.seen, caught)
            lengths = accumulate(checks.seen[name].seconds for name in names)
            names = [name for name, length in zip(names, lengths, strict=True) if length <= seconds]
            running[checks.begin(mutant, names)] = mutant, len(names)
        for each in [each for each in running if each.ended()]:
            (mutant, tests), by = running.pop(each), each.said()["failed"]
            caught[mutant.file, by] += 1
            yield mutant, by, tests
        time.sleep(0.005)


def order(mutant: Mutant, seen: dict[str, Seen], caught: Counter[tuple[str, str]]) -> list[str]:
    """Return the tests that reach a mutant: first those that caught most of its script, then the
    quickest, module by module.
    """
    line = where(mutant.file, mutant.number)
    names = [name for name, each in seen.items() if line in each.lines]
    return sorted(names, key=lambda name: (-caught[mutant.file, name], _quick(name, seen[name])))


def _quick(name: str, seen: Seen) -> tuple[bool, int, str]:
    seconds = next((index for index, each in enumerate(STEPS) if seen.seconds < each), len(STEPS))
    return name == FIXED, seconds, name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
