"""Which tests a run takes, and which of them stay together on one worker of pytest-xdist.

**Parts.** A whole-stack case runs with local processes and again with Jobs of the double of
Kubernetes. The cases on the double take most of the time and seldom find what the local ones miss,
so a run of CI takes one of five parts of them: a hash of the case's name says which part it is in.
Five runs with GPUQUEUE_TEST_PART=0 to 4 cover all. ``commit`` counts the commits, so five commits
in a row cover all, too; ``all`` (as is unset) leaves nothing out. The slow tests of Kubernetes mode
alone, long schedules and crashes at each step are divided in the same way.

**Pods.** What holds for a pod of each job holds for warm ones. GPUQUEUE_TEST_PODS=cold or warm says
what the cases on the double have; ``commit`` takes warm ones in every other five commits.

**Files.** Where only slow tests run, a file of quick ones alone is not imported, and the other way
round.

**Groups.** A file stays on one worker if its tests share a fixture, which is set up once, and so do
quick unit tests.

**Order.** Tests that may take long start first, then large files: none of them runs alone at the
end.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PART, PODS = "GPUQUEUE_TEST_PART", "GPUQUEUE_TEST_PODS"
PARTS = 5
#: Folders whose slow tests are divided, with local processes, too.
DIVIDED = ("tests/integration/kubernetes/", "tests/property/", "tests/crash/")
#: Folders whose tests run without a launcher's kind, which is slow on Kubernetes.
QUICK = ("unit", "property", "docs", "lint", "project", "deploy")
#: The marks of a file whose tests are all slow.
ALL_SLOW = re.compile(r"^pytestmark = (\[[^\[\]]*)?pytest\.mark\.slow\b", re.MULTILINE)
#: Fixtures of a conftest that are set up for each file, and are costly.
COSTLY = ("reader: Reader",)
#: Seconds of a test's timeout from which on it counts as long.
LONG = 400.0


def chosen_part() -> int | None:
    """Return which part of the cases on the double to run; None stands for all."""
    value = os.environ.get(PART) or "all"
    if value == "commit":
        value = str(_commits() % PARTS)
        # Workers of pytest-xdist inherit the number.
        os.environ[PART] = value
    if value == "all":
        return None
    if value not in map(str, range(PARTS)):
        raise pytest.UsageError(f"{PART}={value} is unknown; use 0 to {PARTS - 1}, commit or all")
    return int(value)


def has_warm_pods() -> bool:
    """Return whether jobs on the double let their pods go on with others."""
    value = os.environ.get(PODS) or "cold"
    if value == "commit":
        value = os.environ[PODS] = ("cold", "warm")[_commits() // PARTS % 2]
    if value not in ("cold", "warm"):
        raise pytest.UsageError(f"{PODS}={value} is unknown; use cold, warm or commit")
    return value == "warm"


def _commits() -> int:
    try:
        count = subprocess.run(
            ["git", "rev-list", "--count", "--first-parent", "HEAD"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):  # an archive of the sources
        return 0
    return int(count)


def part_of(name: str) -> int:
    """Return the part that a case belongs to."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % PARTS


def has_none_of(path: Path, marks: str) -> bool:
    """Return whether a test file has none of the tests of a run (its ``-m``), as far as its text
    tells.
    """
    if marks == "slow":
        return is_quick(path)
    return marks == "not slow" and is_slow(path)


def is_slow(path: Path) -> bool:
    """Return whether a file has slow tests alone: the marks of all of its tests say so."""
    return path.name.startswith("test_") and bool(ALL_SLOW.search(path.read_text()))


def is_quick(path: Path) -> bool:
    """Return whether a file has quick tests alone: it names no slow one."""
    if not path.name.startswith("test_") or not path.is_relative_to(ROOT / "tests"):
        return False
    if path.relative_to(ROOT / "tests").parts[0] not in QUICK:
        return False
    return "slow" not in path.read_text()


def kind_of(item: pytest.Item) -> str | None:
    """Return ``local`` or ``kubernetes`` for a whole-stack case, and None for any other test."""
    callspec = getattr(item, "callspec", None)
    kind: str | None = callspec.params.get("kind") if callspec is not None else None
    return kind


def is_divided(item: pytest.Item) -> bool:
    """Return whether a test is a slow one of a folder that is divided into the parts."""
    return item.nodeid.startswith(DIVIDED) and item.get_closest_marker("slow") is not None


def select(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Divide tests into those to run and those to leave out."""
    part = chosen_part()

    def fits(item: pytest.Item) -> bool:
        if kind_of(item) != "kubernetes" and not is_divided(item):
            return True
        if kind_of(item) == "kubernetes" and item.get_closest_marker("local_only"):
            return False
        return part is None or part == part_of(item.nodeid)

    return [each for each in items if fits(each)], [each for each in items if not fits(each)]


def unit_of(nodeid: str) -> str:
    """Return what one worker of pytest-xdist runs as a whole: a test, or a file of them."""
    file = nodeid.partition("::")[0]
    if not (file.startswith("tests/unit/") or _shares_a_fixture(file)):
        return nodeid
    kind = re.search(r"\[(local|kubernetes)\b", nodeid)
    return f"{file} {kind[1] if kind else ''}"


@cache
def _shares_a_fixture(file: str) -> bool:
    text = (ROOT / file).read_text()
    return any(each in text for each in ('scope="module"', *COSTLY))


def order(items: list[pytest.Item]) -> None:
    """Put long tests first, then files that stay whole, the largest first."""
    sizes = Counter(unit_of(item.nodeid) for item in items)

    def rank(item: pytest.Item) -> tuple[bool, int]:
        mark = item.get_closest_marker("timeout")
        is_long = mark is not None and float(mark.args[0]) >= LONG
        return not is_long, -sizes[unit_of(item.nodeid)]

    items.sort(key=rank)
