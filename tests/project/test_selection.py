"""Three runs, each with another third, take every whole-stack case on the double once."""

from __future__ import annotations

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


CASES = [case(number, kind) for number in range(60) for kind in ("local", "kubernetes", None)]


def test_three_thirds_take_each_case_on_the_double_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for third in ("0", "1", "2"):
        monkeypatch.setenv(selection.THIRD, third)
        run, left_out = selection.select(CASES)
        assert len(run) + len(left_out) == len(CASES)
        assert {selection.kind_of(each) for each in left_out} == {"kubernetes"}
        double = [each.nodeid for each in run if selection.kind_of(each) == "kubernetes"]
        assert 10 <= len(double) <= 30
        taken += double
    assert sorted(taken) == sorted(
        each.nodeid for each in CASES if selection.kind_of(each) == "kubernetes"
    )


@pytest.mark.parametrize("value", ["", "all"])
def test_every_case_runs_without_a_third(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(selection.THIRD, value)
    assert selection.select(CASES) == (CASES, [])


def test_a_commit_chooses_one_third(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(selection.THIRD, "commit")
    chosen = selection.chosen_third()
    assert chosen in (0, 1, 2) and selection.chosen_third() == chosen


def test_an_unknown_third_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(selection.THIRD, "3")
    with pytest.raises(pytest.UsageError, match="use 0, 1, 2, commit or all"):
        selection.chosen_third()
