"""A pytest plugin for the suites: routes what they send, limits each test, and writes a line of
JSON for each event into the file that CELERY_SUITE_EVENTS names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.celery_suite.routes import GPU, SIDE, to_gpu

EVENTS = "CELERY_SUITE_EVENTS"
#: Seconds that a test may take, its worker's start included.
LIMIT = "CELERY_SUITE_LIMIT"
#: Characters of a failure that are kept.
SHOWN = 4000


def _tell(**event: Any) -> None:
    with Path(os.environ[EVENTS]).open("a") as file:
        file.write(json.dumps(event) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any],
) -> Generator[None, Any, Any]:
    """Add the route to the settings that the suites give to each application."""
    result = yield
    if fixturedef.argname == "celery_config" and os.environ[SIDE] == GPU:
        result["task_routes"] = (to_gpu,)
    return result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Limit each test, and run each once: what differs is run again by itself on both sides."""
    limit = pytest.mark.timeout(float(os.environ[LIMIT]), method="signal")
    for item in items:
        item.add_marker(limit, append=False)
        item.own_markers = [mark for mark in item.own_markers if mark.name != "flaky"]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be imported counts as a test that fails."""
    if report.failed:
        text = str(report.longrepr)[-SHOWN:]
        _tell(test=report.nodeid, outcome="failed", seconds=0.0, text=text)
        _tell(ended=report.nodeid)


def pytest_collection_finish(session: pytest.Session) -> None:
    _tell(collected=[item.nodeid for item in session.items])


def pytest_runtest_logstart(nodeid: str) -> None:
    _tell(began=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    outcome: str = report.outcome
    if hasattr(report, "wasxfail"):
        outcome = "xfailed" if report.skipped else "xpassed"
    text = "" if report.passed else str(report.longrepr)[-SHOWN:]
    # A subtest reports seconds of its test.
    seconds = 0.0 if hasattr(report, "context") else report.duration
    _tell(test=report.nodeid, outcome=outcome, seconds=seconds, text=text)


def pytest_runtest_logfinish(nodeid: str) -> None:
    _tell(ended=nodeid)
