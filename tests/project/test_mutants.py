"""Which tests a mutant of the scripts gets, and in which order."""

from __future__ import annotations

from collections import Counter

import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import connect
from gpuqueue.store.line import Line
from tests.mutants.__main__ import again, equivalent, order
from tests.mutants.check import FIXED, Seen
from tests.mutants.derive import mutants
from tests.mutants.reach import reached, where


def test_scripts_say_which_of_their_lines_they_reach() -> None:
    with reached() as new, EmbeddedRedis() as server:
        client = connect(server.url)
        line = Line(client)
        line.open("t4")
        assert line.admit(GpuClass("t4", shared_slots=1, exclusive_slots=1)) == []
        lines = new()
        client.close()
        assert new() == set()
    assert {where(each.file, each.number) for each in mutants(["open.lua"])} <= lines
    assert any(each.startswith("lib/gate.lua:") for each in lines), "a function in another"
    assert not lines & {where(each.file, each.number) for each in mutants(["claim.lua"])}


def test_a_mutant_gets_the_tests_that_reach_it_the_likeliest_first() -> None:
    mutant = mutants(["open.lua"])[0]
    here = frozenset({where(mutant.file, mutant.number)})
    seen = {
        "test_long.py::test": Seen(2.0, here),
        "test_short.py::test": Seen(0.01, here),
        FIXED: Seen(9.0, here),
        "test_other.py::test": Seen(0.01, frozenset()),
        "test_catches.py::test": Seen(8.0, here),
    }
    caught = Counter({("open.lua", "test_catches.py::test"): 3})
    assert order(mutant, seen, caught) == [
        "test_catches.py::test",
        "test_short.py::test",
        "test_long.py::test",
        FIXED,
    ]


def test_a_later_run_tries_what_lived_or_was_left_and_counts_it_once() -> None:
    every = mutants(["open.lua", "turn.lua"])
    live, caught, left, other = (each.name for each in every[:4])
    before = {"of": 4, "mutants": 3, "caught": 1, "live": [live, other], "left": [left]}
    result, chosen = again(before, every, every[:3])
    assert [each.name for each in chosen] == [live, left]
    assert (result["mutants"], result["live"], result["left"]) == (2, [other], [live, left])
    with pytest.raises(SystemExit, match="turn"):
        again(before | {"left": [every[-1].name]}, mutants(["open.lua"]), [])


def test_each_mutant_that_is_listed_as_equivalent_is_one_of_the_scripts() -> None:
    assert set(equivalent()) <= {each.name for each in mutants()}
