"""Compares the two sides, by the list of exceptions."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from tests.celery_suite.side import Outcome

#: Lists of tests, each with the reason why they cannot pass on GPU queues.
EXCEPTIONS = Path(__file__).with_name("exceptions.toml")
Outcomes = Mapping[str, Outcome]


def exceptions() -> dict[str, str]:
    """Return node id → reason. An id without parameters names all of its cases."""
    lists = tomllib.loads(EXCEPTIONS.read_text())["exceptions"]
    return {test: each["reason"] for each in lists for test in each["tests"]}


def unexpected(gpu: Outcomes, plain: Outcomes, names: Collection[str]) -> dict[str, str]:
    """Return the tests that break the promise, each with how: those that fail on GPU queues alone
    and are not listed, listed ones that pass, and those that only one side ran.
    """
    found: dict[str, str] = {}
    for test in dict.fromkeys((*gpu, *plain)):
        is_listed = not {test, test.partition("[")[0]}.isdisjoint(names)
        if test not in gpu or test not in plain:
            found[test] = f"ran on {'GPU queues' if test in gpu else 'the plain worker'} alone"
        elif is_listed and gpu[test].is_good:
            found[test] = f"is listed, and {gpu[test].outcome}"
        elif not is_listed and alone(test, gpu, plain):
            found[test] = "fails on GPU queues alone"
    return found


def alone(test: str, gpu: Outcomes, plain: Outcomes) -> bool:
    """Say if a test fails on GPU queues and not on the plain worker."""
    return not gpu[test].is_good and plain[test].is_good


def unknown(tests: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return listed names that no test has."""
    known = {each for test in tests for each in (test, test.partition("[")[0])}
    return [name for name in names if name not in known]
