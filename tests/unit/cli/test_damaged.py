"""``gpuqueue doctor`` shows what was set aside since it cannot be read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gpuqueue.cli.checks.celery import damaged
from gpuqueue.cli.checks.check import Level
from gpuqueue.cli.commands import doctor
from gpuqueue.model.names import REFUSED
from gpuqueue.store.keys import class_key


def state(**by_class: dict[str, str]) -> Any:
    reader = SimpleNamespace(
        classes=lambda: [name for name in by_class if name != REFUSED],
        damaged=lambda name: by_class.get(name, {}),
    )
    return SimpleNamespace(reader=reader)


def test_nothing_is_shown_while_nothing_was_set_aside() -> None:
    assert list(damaged(state(t4={}, a100={}))) == []


def test_what_was_set_aside_is_named_with_the_key_to_delete() -> None:
    [check] = damaged(state(t4={}, a100={"waiting_shared a": "7"}))
    assert (check.name, check.level) == ("state", Level.WARN)
    assert check.saw == "damaged and set aside in class a100: 'waiting_shared a'"
    assert class_key("a100", "damaged") in check.fix


def test_each_class_is_looked_at_and_that_of_refused_jobs() -> None:
    found = damaged(state(t4={"a": ""}, a100={"b": ""}, **{REFUSED: {"c": ""}}))
    assert [each.saw.partition(" in class ")[2].partition(":")[0] for each in found] == [
        "t4", "a100", REFUSED,
    ]  # fmt: skip


def test_a_long_list_is_cut() -> None:
    many = {f"{number}{'x' * 100}": "" for number in range(5)}
    [check] = damaged(state(t4=many))
    assert check.saw.count("'") == 6 and check.saw.endswith("and 2 more")
    assert len(check.saw) < 300


def test_the_command_runs_the_check() -> None:
    assert "damaged" in doctor._celery.__code__.co_names
