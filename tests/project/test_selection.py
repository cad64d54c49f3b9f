"""Five runs, each with another part, take every whole-stack case on the double once."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import selection


def case(number: int, kind: str | None) -> Any:
    """A collected case without marks."""
    callspec = {} if kind is None else {"callspec": SimpleNamespace(params={"kind": kind})}
    return SimpleNamespace(
        nodeid=f"tests/test_it.py::test_it[{kind}-{number}]",
        get_closest_marker=lambda name: None,
        **callspec,
    )


PARTS = ("0", "1", "2", "3", "4")
CASES = [case(number, kind) for number in range(60) for kind in ("local", "kubernetes", None)]


def test_five_parts_take_each_case_on_the_double_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for part in PARTS:
        monkeypatch.setenv(selection.PART, part)
        run, left_out = selection.select(CASES)
        assert len(run) + len(left_out) == len(CASES)
        assert {selection.kind_of(each) for each in left_out} == {"kubernetes"}
        double = [each.nodeid for each in run if selection.kind_of(each) == "kubernetes"]
        assert 3 <= len(double) <= 24
        taken += double
    assert sorted(taken) == sorted(
        each.nodeid for each in CASES if selection.kind_of(each) == "kubernetes"
    )


def test_five_parts_take_each_slow_test_of_kubernetes_mode_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def bad_day(number: int, slow: bool) -> Any:
        return SimpleNamespace(
            nodeid=f"tests/integration/kubernetes/test_it.py::test_it[{number}]",
            get_closest_marker=lambda name: object() if slow and name == "slow" else None,
        )

    slow, quick = ([bad_day(number, each) for number in range(60)] for each in (True, False))
    taken: list[str] = []
    for part in PARTS:
        monkeypatch.setenv(selection.PART, part)
        assert selection.select(quick) == (quick, [])
        run, _ = selection.select(slow)
        assert 3 <= len(run) <= 24
        taken += [each.nodeid for each in run]
    assert sorted(taken) == sorted(each.nodeid for each in slow)


@pytest.mark.parametrize("value", ["", "all"])
def test_every_case_runs_without_a_part(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(selection.PART, value)
    assert selection.select(CASES) == (CASES, [])


def test_a_commit_chooses_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(selection.PART, "commit")
    chosen = selection.chosen_part()
    assert chosen in range(5) and selection.chosen_part() == chosen


def test_an_unknown_part_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(selection.PART, "5")
    with pytest.raises(pytest.UsageError, match="use 0 to 4, commit or all"):
        selection.chosen_part()


def test_a_file_that_is_not_read_has_no_slow_test() -> None:
    files = (selection.ROOT / "tests").rglob("test_*.py")
    unread = [each for each in files if selection.is_quick(each)]
    assert len(unread) > 100
    for each in unread:
        assert not re.search(r"slow|stack_factory|\bstack: Stack", each.read_text()), each
