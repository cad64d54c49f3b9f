"""The page of Celery's suites and the result that it shows agree."""

from __future__ import annotations

import json

from tests.celery_suite.page import PAGE, RESULT, filled
from tests.celery_suite.report import TOTAL
from tests.celery_suite.routes import GPU, PLAIN
from tests.celery_suite.verdict import exceptions


def test_the_page_shows_the_committed_result() -> None:
    text = PAGE.read_text()
    assert filled(text) == text, "run python -m tests.celery_suite.page"


def test_what_fails_on_gpu_queues_alone_is_listed() -> None:
    names = exceptions()
    alone = json.loads(RESULT.read_text())["alone"]
    assert {name.partition("[")[0] for name in alone} == {name.partition("[")[0] for name in names}


def test_both_sides_ran_the_same_tests_and_the_total_is_that_of_the_files() -> None:
    *rows, total = json.loads(RESULT.read_text())["files"]
    assert total["file"] == TOTAL
    for side in (GPU, PLAIN):
        counts = [{k: n for k, n in row[side].items() if k != "seconds"} for row in rows]
        assert sum(sum(each.values()) for each in counts) == sum(
            n for k, n in total[side].items() if k != "seconds"
        )
    for row in rows:
        assert sum(row[GPU].values()) - row[GPU]["seconds"] == (
            sum(row[PLAIN].values()) - row[PLAIN]["seconds"]
        )
