"""Output of commands: tables and sentences for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpuqueue.model.text import LONGEST_NAME

#: Every reading command has it.
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def console() -> Console:
    """Return the console. A pipe gets lines wide enough for whole ids."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


def emit(value: Any) -> None:
    """Print JSON."""
    click.echo(json.dumps(value, indent=2))


def plain(text: object) -> str:
    """Return a name of senders in one line, cut, without what a terminal would obey."""
    return _clean(str(text)[:LONGEST_NAME], "")


def readable(text: object) -> str:
    """Return a text of senders, with its lines and tabs, without what a terminal would obey."""
    return _clean(str(text), "\n\t")


def safe(text: object) -> str:
    """Return a text of senders for a console: as :func:`readable`, and without markup."""
    return escape(readable(text))


def _clean(text: str, kept: str) -> str:
    return "".join(
        each if each.isprintable() or each in kept else "\N{REPLACEMENT CHARACTER}" for each in text
    )


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None
) -> Table:
    """Build a table of plain text; None is shown as an empty cell."""
    title = None if title is None else safe(title)
    made = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for column in columns:
        made.add_column(safe(column), overflow="fold")  # an id cut short cannot be copied
    for row in rows:
        made.add_row(*("" if cell is None else safe(cell) for cell in row))
    return made


def ago(then: float | None, now: float) -> str:
    """Format how long ago a time was (``3m 20s``), or how far ahead it is (``in 20s``)."""
    if then is None:
        return ""
    return duration(now - then) if then <= now else f"in {duration(then - now)}"


def next_try(place: dict[str, Any], now: float) -> str:
    """Format when a place that is set aside is tried next."""
    if place["probe"]:
        return f"set aside; tried by {place['probe']}"
    if place["until"] <= now:
        return "set aside; the next job tries it"
    return f"set aside; next try {ago(place['until'], now)}"


def duration(seconds: float) -> str:
    """Format a duration in its two largest units."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    left = int(seconds)
    words: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size or (unit == "s" and not words):
            words.append(f"{left // size}{unit}")
            left %= size
    return " ".join(words[:2])


def memory(size: int | None) -> str:
    """Format an amount of memory in bytes as GiB."""
    return "" if size is None else f"{size / 2**30:.1f}GiB"
