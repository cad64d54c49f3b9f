"""A report of usage for people and for spreadsheets, with the names of senders; and its window."""

from __future__ import annotations

import csv
import io
from typing import Any

import click
import pytest

from gpuqueue.cli.commands.usage import Moment, Window, show, write_csv
from gpuqueue.cli.commands.usage import shown as report_of
from gpuqueue.model.names import SHARED
from gpuqueue.model.usage import Use, report

NOW = 1_764_510_000_000_000
NAMES = ["=HYPERLINK(1)", "+1", "-1", "@x", "\t=1", 'a "b", c\nd', "plain", "\x1b[31mred"]


def found(name: str) -> dict[str, Any]:
    use = Use("t4", 1, "", name, SHARED, "SUCCEEDED", True, 1, None, 1, 10**6, 0)
    return report_of(report([use], [], lambda one: name), "task")


@pytest.mark.parametrize("name", NAMES)
def test_names_in_csv_are_texts_and_rows_stay_whole(name: str) -> None:
    file = io.StringIO(newline="")
    write_csv(found(name), "task", file)
    [row] = csv.DictReader(io.StringIO(file.getvalue(), newline=""))
    assert row["task"] == (f"'{name}" if name[0] in "=+-@\t" else name)
    assert (row["attempts"], row["gpu_seconds"], row["cost"]) == ("1", "1.000000", "")


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_table_command_no_terminal(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(found(name), "task", Window(0, NOW))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("0h", NOW),
        ("1d", (NOW // 86_400_000_000 - 1) * 86_400_000_000),
        ("99999d", 0),
        ("1969-12-31", 0),
        ("2026-11-30T12:00:00.500001+02:00", 1_796_032_800_500_001),
    ],
)
def test_a_moment_is_exact_and_not_before_1970(text: str, then: int) -> None:
    assert Moment().convert(text, None, None)(NOW) == then


@pytest.mark.parametrize(
    "text",
    ["-1d", "1w", "", "ALL", "now", "1 d", "9999-12-31T23:59-23:59", "0001-01-01T00:00+23:59"],
)
def test_a_moment_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="is no time; use a date"):
        Moment().convert(text, None, None)
