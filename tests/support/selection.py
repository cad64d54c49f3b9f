"""Which tests a run takes, and which of them stay together on one worker of pytest-xdist.

**Thirds.** A whole-stack case runs with local processes and again with Jobs of the double of
Kubernetes. The cases on the double take most of the time and seldom find what the local ones miss,
so a run of CI takes one third of them: a hash of the case's name says which third it is in. Three
runs with GPUQUEUE_TEST_THIRD=0, 1 and 2 cover all. ``commit`` counts the commits, so three commits
in a row cover all, too; ``all`` (as is unset) leaves nothing out.

**Groups.** Tests that share a fixture of their module stay on one worker: it is set up once.

**Order.** Tests that may take longest start first: none of them runs alone at the end.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

THIRD = "GPUQUEUE_TEST_THIRD"
#: Seconds of a test's timeout from which on it counts as long.
LONG = 400.0


def chosen_third() -> int | None:
    """Return which third of the cases on the double to run; None stands for all."""
    value = os.environ.get(THIRD) or "all"
    if value == "commit":
        value = _third_of_commit()
        # Workers of pytest-xdist inherit the number.
        os.environ[THIRD] = value
    if value == "all":
        return None
    if value not in ("0", "1", "2"):
        raise pytest.UsageError(f"{THIRD}={value} is unknown; use 0, 1, 2, commit or all")
    return int(value)


def _third_of_commit() -> str:
    try:
        count = subprocess.run(
            ["git", "rev-list", "--count", "--first-parent", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):  # an archive of the sources
        return "0"
    return str(int(count) % 3)


def third_of(name: str) -> int:
    """Return the third that a case belongs to."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % 3


def kind_of(item: pytest.Item) -> str | None:
    """Return ``local`` or ``kubernetes`` for a whole-stack case, and None for any other test."""
    callspec = getattr(item, "callspec", None)
    kind: str | None = callspec.params.get("kind") if callspec is not None else None
    return kind


def select(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Divide tests into those to run and those to leave out."""
    third = chosen_third()

    def fits(item: pytest.Item) -> bool:
        if kind_of(item) != "kubernetes":
            return True
        if item.get_closest_marker("local_only"):
            return False
        return third is None or third == third_of(item.nodeid)

    return [each for each in items if fits(each)], [each for each in items if not fits(each)]


def long_first(items: list[pytest.Item]) -> None:
    """Put the tests with the longest timeouts first, in their order."""

    def is_long(item: pytest.Item) -> bool:
        mark = item.get_closest_marker("timeout")
        return mark is not None and float(mark.args[0]) >= LONG

    items.sort(key=lambda item: not is_long(item))


def group(items: list[pytest.Item]) -> None:
    """Keep tests that share a fixture of their module on one worker."""
    for item in items:
        fixtures = getattr(item, "_fixtureinfo", None)
        if fixtures is None:
            continue
        if any(
            definition.scope == "module"
            for definitions in fixtures.name2fixturedefs.values()
            for definition in definitions
        ):
            name = f"{item.nodeid.partition('::')[0]}-{kind_of(item) or 'any'}"
            item.add_marker(pytest.mark.xdist_group(name))
