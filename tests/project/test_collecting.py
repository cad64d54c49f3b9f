"""Workers divide the import of the test files, and leave out what a run leaves out."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

from tests.support import collecting

HERE = "tests.project.test_collecting"


def imported(
    monkeypatch: pytest.MonkeyPatch, *, mark: str = "not slow", args: tuple[str, ...] = ("tests",)
) -> list[str]:
    """Return what three workers import."""
    found: list[str] = []
    monkeypatch.setattr(importlib, "import_module", found.append)
    for number in range(3):
        collecting.import_share(
            SimpleNamespace(
                workerinput={"workerid": f"gw{number}", "workercount": 3},
                args=list(args),
                option=SimpleNamespace(markexpr=mark),
            )
        )
    return found


def test_workers_import_each_test_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [collecting.module_of(each) for each in collecting.test_files()]
    found = imported(monkeypatch)
    assert HERE in found and len(found) > 300
    assert sorted(found) == sorted(every)


def test_a_slow_run_imports_no_file_of_quick_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    found = imported(monkeypatch, mark="slow")
    assert "tests.property.test_schedules" in found
    assert "tests.project.test_wheel" not in found


def test_a_run_of_some_files_imports_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert imported(monkeypatch, args=("tests/unit", "tests/project")) == []
