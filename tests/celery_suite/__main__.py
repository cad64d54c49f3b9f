"""Runs the suites on both sides: ``python -m tests.celery_suite FOLDER --packages FOLDER``.

Answers 1 if a test fails on GPU queues, passes on the plain worker and is not listed in
``exceptions.toml``, or if a listed one passes. A test that breaks the promise runs again by itself
on both sides before it counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.celery_suite.checkout import WrongCheckout, prepare
from tests.celery_suite.report import summary, table
from tests.celery_suite.routes import GPU, PLAIN
from tests.celery_suite.side import Outcome, Side, SuiteFailed
from tests.celery_suite.verdict import exceptions, unexpected, unknown
from tests.chaos.report import write
from tests.support.runners import end_runners

#: How often a test that breaks the promise runs again.
AGAIN = 2
#: Characters of a failure that are shown.
SHOWN = 1500
Found = dict[str, dict[str, Outcome]]


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    # On SIGTERM, end what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = Path(tempfile.mkdtemp(prefix="suite-"))
    # Short: the path of a socket may have 103 bytes.
    os.environ["GPUQUEUE_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="gpuqueue-")
    try:
        return compare(options, work)
    except (WrongCheckout, SuiteFailed) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    finally:
        end_runners()
        shutil.rmtree(os.environ["GPUQUEUE_RUNTIME_DIR"], ignore_errors=True)
        if options.keep:
            print(f"logs: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.celery_suite", description=__doc__)
    parser.add_argument("repository", type=Path, help="a checkout of the installed Celery")
    parser.add_argument("--packages", type=Path, required=True, help="where their imports go")
    parser.add_argument("--only", nargs="*", default=[], help="files, or node ids of tests")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one test")
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace, work: Path) -> int:
    """Run the tests on both sides; returns the exit status."""
    began, folder, packages = time.monotonic(), work / "folder", options.packages.resolve()
    folder.mkdir()
    files = prepare(options.repository, folder, packages)
    chosen = [each if "/" in each else f"t/integration/{each}" for each in options.only]
    names = exceptions()
    with ExitStack() as stack:
        sides = [
            stack.enter_context(Side(name, folder, packages, work / name, options.limit))
            for name in (GPU, PLAIN)
        ]
        found = run(sides, chosen or files)
        broken = run_again(sides, found, names)
    if not chosen:
        broken |= dict.fromkeys(unknown(found[GPU], names), "is listed, and no test has this name")
    result = summary(dict(found), (time.monotonic() - began) / 60)
    print(f"\n{table(result)}\n")
    for test, how in broken.items():
        outcome = found[GPU].get(test, Outcome())
        print(f"{test} {how}\n{outcome.text[-SHOWN:]}")
    print(f"{len(broken)} tests break the promise, {len(result['alone'])} fail on GPU queues alone")
    if options.output:
        write(options.output, result)
    return 1 if broken else 0


def run(sides: Sequence[Side], files: list[str]) -> Found:
    """Run each file on both sides at the same time: tests wait for most of it."""
    found: Found = {side.name: {} for side in sides}
    with ThreadPoolExecutor(len(sides)) as pool:
        try:
            for file in files:
                started = time.monotonic()
                both = pool.map(Side.run, sides, [[file]] * len(sides))
                for side, outcomes in zip(sides, both, strict=True):
                    found[side.name] |= outcomes
                print(f"{time.monotonic() - started:5.0f} s  {file}", flush=True)
        except BaseException:
            for side in sides:
                side.end()
            raise
    return found


def run_again(sides: Sequence[Side], found: Found, names: dict[str, str]) -> dict[str, str]:
    """Run what breaks the promise again, each test by itself; returns what still does."""
    for _ in range(AGAIN):
        for test, how in unexpected(found[GPU], found[PLAIN], names).items():
            print(f"again: {test} {how}", flush=True)
            for side in sides:
                found[side.name] |= side.run([test])
    return unexpected(found[GPU], found[PLAIN], names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
