"""Workers divide the import of the test files, and leave out what a run leaves out."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support import collecting, selection

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
    found = imported(monkeypatch, mark="")
    assert HERE in found and len(found) > 300
    assert sorted(found) == sorted(every)


def test_a_slow_run_imports_no_file_of_quick_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    found = imported(monkeypatch, mark="slow")
    assert "tests.property.test_schedules" in found
    assert "tests.project.test_wheel" not in found


def test_a_quick_run_imports_no_file_of_slow_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    every, found = set(imported(monkeypatch, mark="")), imported(monkeypatch)
    assert {"tests.integration.test_log_sink", "tests.crash.test_steps"} <= every - {*found}
    assert {HERE, "tests.property.test_schedules", "tests.docs.test_pages"} <= {*found}


@pytest.mark.parametrize(
    ("marks", "is_slow"),
    [
        ("pytest.mark.slow", True),
        ("[pytest.mark.integration, pytest.mark.timeout(9), pytest.mark.slow]", True),
        ("[\n    pytest.mark.integration,\n    pytest.mark.slow,\n]", True),
        ("pytest.mark.slowest", False),
        ("[pytest.mark.integration]\nSLOW = [pytest.mark.slow]", False),
        ('[pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.slow)])]', False),
    ],
)
def test_a_file_is_slow_by_the_marks_of_all_its_tests(
    tmp_path: Path, marks: str, is_slow: bool
) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(f"import pytest\n\npytestmark = {marks}\n")
    assert selection.is_slow(file) == is_slow


def test_a_run_of_some_files_imports_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert imported(monkeypatch, args=("tests/unit", "tests/project")) == []
