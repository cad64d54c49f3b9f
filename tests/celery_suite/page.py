"""Writes the results into the page of the docs: ``python -m tests.celery_suite.page``."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.celery_suite.report import table
from tests.celery_suite.verdict import exceptions
from tests.chaos.report import facts
from tests.support.pages import between_marks

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "celery-suites.md"
RESULT = Path(__file__).with_name("result.json")


def parts() -> dict[str, str]:
    """Return the generated parts of the page by their marks."""
    found: dict[str, Any] = json.loads(RESULT.read_text())
    about = found["about"]
    told = [f"Celery {about['celery']}.", facts(about), about.get("note", "")]
    return {
        "facts": "\n".join(filter(None, told)),
        "table": table(found),
        "exceptions": "\n".join(_exceptions()),
    }


def _exceptions() -> list[str]:
    lines = ["| tests | reason |", "| --- | --- |"]
    for reason, tests in groupby(exceptions().items(), key=lambda item: item[1]):
        names = [test.rpartition("/")[2].split("::") for test, _ in tests]
        told = (
            f"`{file}`: " + ", ".join(f"`{name}`" for *_, name in of_file)
            for file, of_file in groupby(names, key=lambda name: name[0])
        )
        lines.append(f"| {'; '.join(told)} | {reason} |")
    return lines


def filled(text: str) -> str:
    """Return a page with the results between its marks."""
    return between_marks(text, parts())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
