"""Writes the results into the page of the docs: ``python -m tests.chaos.page``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.chaos.report import facts, tables
from tests.mutants.report import sentence
from tests.support.pages import between_marks

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "crash-report.md"
SCHEDULES = ROOT / "tests" / "chaos" / "result.json"
MUTANTS = ROOT / "tests" / "mutants" / "result.json"


def parts() -> dict[str, str]:
    """Return the generated parts of the page by their marks."""
    found: dict[str, Any] = json.loads(SCHEDULES.read_text())
    zeros, losing = tables(found)
    return {
        "facts": facts(found["about"]),
        "zeros": zeros,
        "losing": losing,
        "mutants": sentence(json.loads(MUTANTS.read_text())),
    }


def filled(text: str) -> str:
    """Return a page with the results between its marks."""
    return between_marks(text, parts())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
