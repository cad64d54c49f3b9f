"""The pages of the docs, as tests read them: sections, tables, blocks, links."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

import gpuqueue

ROOT = Path(gpuqueue.__file__).parent.parent
#: Every page for readers: the root, and the folders that have pages.
PAGES = [
    *sorted(each.name for each in ROOT.glob("*.md")),
    *sorted(
        str(each.relative_to(ROOT))
        for folder in ("benchmarks", "charts", "docs", "examples", "workers")
        for each in ROOT.glob(f"{folder}/**/*.md")
    ),
]


class Page:
    """One page, by its path from the root."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.text = (ROOT / path).read_text()

    @property
    def title(self) -> str:
        """Its first heading, with the mark."""
        return next(line for line in self.text.splitlines() if line.startswith("# "))

    def section(self, heading: str) -> str:
        """The text under a heading, up to the next one of its rank or above."""
        marks = heading.partition(" ")[0]
        found = re.search(
            rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(marks)}}} |\Z)",
            self.text,
            re.MULTILINE | re.DOTALL,
        )
        assert found, heading
        return found.group(1)

    def tables(self, heading: str) -> list[list[list[str]]]:
        """The tables under a heading, as rows of cells, without their headers."""
        found = [
            each.strip()
            for each in self.section(heading).split("\n\n")
            if each.lstrip().startswith("|")
        ]
        lines = [each.splitlines()[2:] for each in found]
        return [[re.split(r" *\| *", row.strip())[1:-1] for row in rows] for rows in lines]

    def table(self, heading: str) -> list[list[str]]:
        """The first table under a heading; code marks taken off its first two cells."""
        return [
            [*(cell.strip("`") for cell in row[:2]), *row[2:]] for row in self.tables(heading)[0]
        ]

    def blocks(self, language: str, heading: str = "") -> list[str]:
        """The blocks of a language, of the whole page or under one heading."""
        text = self.section(heading) if heading else self.text
        return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """A heading's link, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def alias(field: FieldInfo) -> str:
    """The environment's name of a setting."""
    choices: Any = field.validation_alias
    return choices if isinstance(choices, str) else str(choices.choices[0])


def defaults(fields: Mapping[str, FieldInfo]) -> dict[str, str]:
    """The environment's name of each setting, and its default as tables show it."""
    return {alias(field): shown(field.default) for field in fields.values()}


def shown(default: object) -> str:
    """A default as tables show it."""
    return (
        "not set"
        if default in (None, "")
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )


def between_marks(text: str, parts: Mapping[str, str]) -> str:
    """Return the text of a page with parts that are generated between their marks."""
    for mark, content in parts.items():
        pattern = rf"(<!-- {mark} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, rf"\g<1>\n{content}\n\n\g<2>", text, flags=re.DOTALL)
        assert count == 1, f"no mark {mark} on the page"
    return text
