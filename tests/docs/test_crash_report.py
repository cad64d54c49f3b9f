"""The page of the crash report and the results that it shows agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.page import MUTANTS, PAGE, SCHEDULES, filled
from tests.chaos.report import COUNTS, LOSING, total
from tests.chaos.steps import STEPS
from tests.mutants.__main__ import earlier, keep


def test_the_page_shows_the_committed_results() -> None:
    text = PAGE.read_text()
    assert filled(text) == text, "run python -m tests.chaos.page"


def test_the_page_names_as_many_steps_as_there_are() -> None:
    assert f"one of {len(STEPS)} named steps" in PAGE.read_text()


def test_the_total_is_that_of_the_rows() -> None:
    found = json.loads(SCHEDULES.read_text())
    kept = [row for row in found["rows"] if row["fault"] not in LOSING]
    assert found["total"] == total(kept, "total")
    assert {row["fault"] for row in found["rows"]} <= {*FAULTS, "two kinds at once"}


@pytest.mark.parametrize("count", [each for each in COUNTS if each not in ("schedules", "jobs")])
def test_every_failure_of_the_total_is_listed(count: str) -> None:
    found = json.loads(SCHEDULES.read_text())
    if count != "again":
        assert bool(found["total"][count]) <= bool(found["failures"])


def test_every_mutant_that_was_tried_is_counted() -> None:
    whole = json.loads(MUTANTS.read_text())
    for found in (whole, *whole.get("parts", ())):
        ends = found["caught"] + found["equivalent"] + len(found["live"])
        assert found["mutants"] == ends <= found["of"]


def test_a_run_of_some_scripts_stands_beside_the_one_of_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"mutants": 618}))
    for caught in (1, 2):
        keep(path, {"scripts": ["used.lua"], "caught": caught})
    keep(path, {"scripts": ["admit.lua"], "caught": 7})
    keep(path, {"since": "abc1234", "caught": 5})
    assert json.loads(path.read_text())["mutants"] == 618
    assert earlier(path, {"scripts": ["used.lua"]})["caught"] == 2
    assert earlier(path, {"since": "abc1234"})["caught"] == 5
    with pytest.raises(SystemExit, match=r"no result of mutants of `why\.lua`"):
        earlier(path, {"scripts": ["why.lua"]})
