"""The report of a replay: a table for each scenario, from figures as the JSON has them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from benchmarks.harness import Figure

#: Heading → the measures of its column.
COLUMNS = {
    "makespan ÷ bound": ("makespan ÷ bound",),
    "shared wait: mean, p99": ("shared wait, mean", "shared wait, p99"),
    "exclusive wait: mean, p99": ("exclusive wait, mean", "exclusive wait, p99"),
    "overtaken: before a drain, in all": ("overtaken before a drain", "overtaken in all"),
    "in a row": ("exclusive in a row",),
    "Jain": ("Jain index",),
    "slots used": ("slots used",),
}
_UNITS = ((48 * 3600, 86_400, "d"), (2 * 3600, 3600, "h"), (120, 60, "min"), (0, 1, "s"))


class Report(NamedTuple):
    """One scenario: a row of cells for each scheduler, its name first, and its aims."""

    title: str
    what: str
    rows: list[list[str]]
    aims: list[str]


def duration(seconds: float) -> str:
    """Return a time span with two or three significant digits: ``4.2 d``, ``13 min``, ``0 s``."""
    _, size, unit = next(each for each in _UNITS if seconds >= each[0])
    value = seconds / size
    return f"{value:.0f} {unit}" if value >= 99.5 or not value else f"{value:.3g} {unit}"


def shown(measure: str, value: float) -> str:
    """Return the value of a measure as the tables show it."""
    if "wait" in measure or measure == "makespan":
        return duration(value)
    if measure == "slots used":
        return f"{value:.0%}"
    return f"{value:.3f}" if "÷" in measure or "Jain" in measure else f"{value:.0f}"


def reports(figures: Sequence[dict[str, Any]]) -> list[Report]:
    """Return the scenarios of the figures, in their order; other figures are left out."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for figure in figures:
        title, _, measure = figure["name"].rpartition(": ")
        if title:
            found.setdefault(title, {})[measure] = figure
    return [_report(title, measures) for title, measures in found.items()]


def _report(title: str, measures: dict[str, dict[str, Any]]) -> Report:
    schedulers: dict[str, dict[str, float]] = {}
    for name, figure in measures.items():
        for each in (figure["ours"], *figure["peers"]):
            schedulers.setdefault(each["label"], {})[name] = each["median"]
    rows = [
        [label, *(cell(names, values) for names in COLUMNS.values())]
        for label, values in schedulers.items()
    ]
    aims = [
        f"{name} {figure['aim']}: {'met' if figure['met'] else 'missed'}"
        f" ({shown(name, figure['ours']['median'])}{_ratios(figure)})"
        for name, figure in measures.items()
        if figure["aim"]
    ]
    return Report(title, next(iter(measures.values()))["note"] or "", rows, aims)


def _ratios(figure: dict[str, Any]) -> str:
    """Return the ratio to the peer that the aim names."""
    named = [each for each in figure["peers"] if figure["aim"].endswith(each["label"])]
    return "".join(f", {each['ratio']:.2f} of it" for each in named if each["ratio"] is not None)


def cell(names: Sequence[str], values: Mapping[str, float]) -> str:
    """Return the measures of one column."""
    return ", ".join(shown(name, values[name]) for name in names)


def tables(figures: Sequence[Figure]) -> list[Table]:
    """Return the tables for the terminal."""
    made = []
    for report in reports([figure.shape() for figure in figures]):
        caption = "\n".join([report.what, *(f"Aim: {aim}" for aim in report.aims)])
        table = Table(
            title=report.title,
            caption=caption,
            title_justify="left",
            caption_justify="left",
            title_style="bold",
            expand=True,
        )
        for heading in ("scheduler", *COLUMNS):
            left = heading == "scheduler"
            table.add_column(heading, justify="left" if left else "right", overflow="fold")
        for row in report.rows:
            table.add_row(*row)
        made.append(table)
    rest = [figure for figure in figures if ": " not in figure.name]
    for figure in rest:
        table = Table(title=figure.name, title_justify="left", title_style="bold")
        for heading in ("scheduler", figure.unit):
            table.add_column(heading)
        for sample in (figure.ours, *figure.peers):
            table.add_row(sample.label, f"{sample.middle:,.0f}")
        made.append(table)
    return made
