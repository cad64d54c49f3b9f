"""What breaks the promise, and which checkouts can be run."""

from __future__ import annotations

from pathlib import Path

import celery
import pytest

from tests.celery_suite.checkout import FETCHED, PACKAGES, WrongCheckout, prepare
from tests.celery_suite.report import summary
from tests.celery_suite.routes import GPU, PLAIN
from tests.celery_suite.side import Outcome
from tests.celery_suite.verdict import exceptions, unexpected, unknown

LISTED = {"t/a.py::listed": "why"}


def sides(gpu: str, plain: str, test: str) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    return {test: Outcome(gpu)}, {test: Outcome(plain)}


@pytest.mark.parametrize("test", ["t/a.py::other", "t/a.py::other[1]"])
@pytest.mark.parametrize(
    ("gpu", "plain", "breaks"),
    [
        ("passed", "passed", False),
        ("failed", "failed", False),
        ("passed", "failed", False),
        ("xpassed", "xfailed", False),
        ("failed", "passed", True),
        ("failed", "skipped", True),
        ("failed", "xfailed", True),
    ],
)
def test_only_a_failure_on_gpu_queues_alone_breaks(
    test: str, gpu: str, plain: str, breaks: bool
) -> None:
    assert list(unexpected(*sides(gpu, plain, test), LISTED)) == [test] * breaks


@pytest.mark.parametrize("test", ["t/a.py::listed", "t/a.py::listed[1]"])
@pytest.mark.parametrize(
    ("gpu", "breaks"), [("passed", True), ("skipped", True), ("xfailed", True), ("failed", False)]
)
def test_a_listed_test_must_fail(test: str, gpu: str, breaks: bool) -> None:
    for plain in ("passed", "failed"):
        assert list(unexpected(*sides(gpu, plain, test), LISTED)) == [test] * breaks


def test_a_test_that_one_side_did_not_run_breaks() -> None:
    one = {"t/a.py::one": Outcome()}
    assert unexpected(one, {}, {}) == {"t/a.py::one": "ran on GPU queues alone"}
    assert unexpected({}, one, {}) == {"t/a.py::one": "ran on the plain worker alone"}


def test_a_listed_name_that_no_test_has_is_told() -> None:
    assert unknown(["t/a.py::listed[1]"], LISTED) == []
    assert unknown(["t/a.py::other"], LISTED) == ["t/a.py::listed"]
    assert unknown(exceptions(), exceptions()) == []


def test_the_worst_report_is_the_outcome_of_a_test() -> None:
    outcome = Outcome()
    for word, text in (("passed", ""), ("failed", "first"), ("failed", "second"), ("skipped", "")):
        outcome.add(word, 1.0, text)
    assert outcome == Outcome("failed", 4.0, "first")


def test_the_summary_counts_each_file_and_names_what_differs() -> None:
    gpu = {"t/a.py::x": Outcome("failed", 1.2, "text"), "t/b.py::y": Outcome("passed", 2.0)}
    plain = {"t/a.py::x": Outcome("passed", 0.2), "t/b.py::y": Outcome("skipped", 0.0)}
    found = summary({GPU: gpu, PLAIN: plain}, 1.0)
    assert found["files"] == [
        {"file": "a.py", GPU: {"failed": 1, "seconds": 1}, PLAIN: {"passed": 1, "seconds": 0}},
        {"file": "b.py", GPU: {"passed": 1, "seconds": 2}, PLAIN: {"skipped": 1, "seconds": 0}},
        {
            "file": "all",
            GPU: {"passed": 1, "failed": 1, "seconds": 3},
            PLAIN: {"passed": 1, "skipped": 1, "seconds": 0},
        },
    ]
    assert found["alone"] == ["t/a.py::x"]


def test_another_celery_is_refused_with_the_version_to_check_out(tmp_path: Path) -> None:
    with pytest.raises(WrongCheckout, match="has no t/integration"):
        prepare(tmp_path, tmp_path, tmp_path)
    for name in ("celery", "t/integration"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "t" / "integration" / "conftest.py").touch()
    (tmp_path / "celery" / "__init__.py").write_text("__version__ = '4.0.0'\n")
    with pytest.raises(WrongCheckout, match=f"is Celery 4.0.0, but {celery.__version__}"):
        prepare(tmp_path, tmp_path, tmp_path)


def test_files_run_in_a_folder_without_celery_and_long_ones_last(tmp_path: Path) -> None:
    repository, folder = tmp_path / "repository", tmp_path / "folder"
    packages = tmp_path / "packages"
    for each in (folder, packages, repository / "celery", repository / "t" / "integration"):
        each.mkdir(parents=True)
    (repository / "celery" / "__init__.py").write_text(f"__version__ = '{celery.__version__}'\n")
    (repository / "pyproject.toml").touch()
    (packages / FETCHED).write_text("\n".join(PACKAGES))
    for name in ("conftest.py", "test_canvas.py", "test_beat.py", "test_tasks.py"):
        (repository / "t" / "integration" / name).touch()
    assert prepare(repository, folder, packages) == [
        "t/integration/test_tasks.py",
        "t/integration/test_canvas.py",
        "t/integration/test_beat.py",
    ]
    assert sorted(each.name for each in folder.iterdir()) == ["pyproject.toml", "t", "tests"]
