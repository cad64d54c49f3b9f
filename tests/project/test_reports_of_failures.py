"""Reports of failed tests."""

from __future__ import annotations

import ast
import gc
from typing import Any

import pytest

from tests import conftest
from tests.support.making_reports import sendable

SOURCE = f"x = [{','.join(f'f(a + b * {number})' for number in range(3000))}]"


class Parses:
    """Garbage whose finalizer parses Python, as one does that shows a traceback."""

    def __init__(self) -> None:
        self.myself = self

    def __del__(self) -> None:
        ast.parse("a + b * (c + d)")


def test_a_report_is_made_with_garbage_that_parses(request: pytest.FixtureRequest) -> None:
    call: Any = None
    for _ in range(8):
        for _ in range(20):
            Parses()
        made = conftest.pytest_runtest_makereport(request.node, call)
        next(made)
        ast.parse(SOURCE)
        report: Any = type("Report", (), {"failed": False})()
        with pytest.raises(StopIteration):
            made.send(report)
        assert gc.isenabled()


def test_a_report_with_a_lone_surrogate_is_sent() -> None:
    sent = sendable({"sections": [("log", "job \ud800")], "outcome": "failed", "when": None})
    assert sent == {"sections": [("log", "job \\ud800")], "outcome": "failed", "when": None}
    sent["sections"][0][1].encode()
