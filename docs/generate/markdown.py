"""Pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

#: The first lines of every page, where an editor of the page reads them.
NOTE = "<!-- Generated from the code by `python -m docs.generate`: do not edit. -->"


def page(title: str, *parts: str) -> str:
    """Return a page of paragraphs, tables and sections."""
    return "\n\n".join([NOTE, f"# {title}", *(part.strip() for part in parts)]) + "\n"


def code(text: object) -> str:
    """Mark a text as code; nothing stays nothing."""
    return f"`{text}`" if text not in (None, "") else ""


def codes(texts: Iterable[object]) -> str:
    """Mark several texts as code, with commas between them."""
    return ", ".join(code(text) for text in texts)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a pipe in a cell is escaped."""
    every_row = [columns, ["---"] * len(columns), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in every_row)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in escaped)


def lines(text: str) -> str:
    """Return a paragraph with one sentence a line."""
    return re.sub(r"(?<=[.!?]) (?=[A-Z])", "\n", text)


def sentence(text: str) -> str:
    """Return a text with a capital at its start and a full stop at its end."""
    ended = text if text.endswith((".", "!", "?")) else f"{text}."
    return ended[0].upper() + ended[1:]
