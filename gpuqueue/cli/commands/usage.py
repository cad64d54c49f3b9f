"""``gpuqueue usage``: who used what, and what it cost."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, TextIO

import click

from gpuqueue.cli.view import render
from gpuqueue.cli.view.state import State, open_state
from gpuqueue.model.names import INTERNAL
from gpuqueue.model.usage import DAY, HOUR, Had, Report, Sums, Use, report, rounded
from gpuqueue.store.usage import Usage

#: What a report may be by.
KEYS: dict[str, Callable[[Use | Had], str]] = {
    "tenant": lambda one: one.tenant or "(none)" if isinstance(one, Use) else "",
    "task": lambda one: one.task or "(unknown)" if isinstance(one, Use) else "",
    "class": lambda one: one.gpu_class,
    "day": lambda one: _date(one.day * DAY) if one.day is not None else "older",
}
_AGO = re.compile(r"(\d{1,5})(m|h|d)")
_UNITS = {"m": 60_000_000, "h": HOUR, "d": DAY}
#: How a cell begins that a spreadsheet takes for a formula.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
#: Characters of a name in the table.
_WIDTH = 23
_COLUMNS = (
    *("attempts", "running", "gpu_seconds", "wasted_gpu_seconds", "held_seconds"),
    *("waited_seconds", "cost", "waste"),
)


@dataclass(frozen=True, slots=True)
class Window:
    """A window in Unix microseconds."""

    since: int
    until: int


class Moment(click.ParamType[Callable[[int], int]]):
    """A time: a date or time in UTC, how long ago, or ``all``. Answers microseconds from now back,
    or since 1970.
    """

    name = "WHEN"

    def convert(self, value: Any, param: Any, ctx: Any) -> Callable[[int], int]:
        """Return a function of the present time, in microseconds."""
        if callable(value):
            return value  # type: ignore[no-any-return]
        if value == "all":
            return lambda now: 0
        if ago := _AGO.fullmatch(value):
            length = int(ago[1]) * _UNITS[ago[2]]
            whole = DAY if ago[2] == "d" else 1
            return lambda now: max(0, (now - length) // whole * whole)
        try:
            then = datetime.fromisoformat(value)
            then = then.astimezone(UTC) if then.tzinfo else then.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time; use a date (2026-11-30), a time (2026-11-30T12:00, in"
                " UTC), how long ago (12h, 7d), or all",
                param,
                ctx,
            )
        micros = (then - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        return lambda now: max(0, micros)


@click.command()
@click.option("--since", type=Moment(), default="30d", show_default=True, help="From when.")
@click.option("--until", type=Moment(), help="Until when; default now.")
@click.option(
    "--by",
    type=click.Choice([*KEYS]),
    default="tenant",
    show_default=True,
    help="One line for each.",
)
@click.option("--class", "only", metavar="CLASS", help="This class alone.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@render.json_option
def usage(
    since: Callable[[int], int],
    until: Callable[[int], int] | None,
    by: str,
    only: str | None,
    as_csv: bool,
    as_json: bool,
) -> int:
    """Show who used what, and what it cost: jobs, waste and idle time make the capacity.

    WHEN: a date or time (UTC), how long ago (`12h`, `7d`), or `all`.

    Exit status: 1 if the class is unknown.
    """
    if as_csv and as_json:
        raise click.UsageError("use --csv or --json, not both")
    state = open_state()
    now = round(state.now() * 1_000_000)
    window = Window(since(now), until(now) if until else now)
    if window.since >= window.until:
        raise click.UsageError("--since must be before --until")
    classes = [name for name in state.reader.classes() if name not in INTERNAL]
    if only is not None and only not in classes:
        click.echo(f"gpuqueue: class={only!r} is unknown; see `gpuqueue classes`", err=True)
        return 1
    found, lost = collect(state, classes if only is None else [only], window, by)
    if as_json:
        render.emit({"since": _iso(window.since), "until": _iso(window.until), "by": by, **found})
    elif as_csv:
        write_csv(found, by, sys.stdout)
    else:
        show(found, by, window)
    if lost:
        text = f"{lost} attempts could not be accounted for: keys of the class are damaged"
        click.echo(f"gpuqueue: {text}; see `gpuqueue doctor`", err=True)
    return 0


def collect(
    state: State, classes: list[str], window: Window, by: str
) -> tuple[dict[str, Any], int]:
    """Return the report, and how many attempts it misses."""
    apart = window.since if window.since % DAY else None
    if apart is None and window.until % DAY:
        apart = max(window.since, window.until // DAY * DAY)
    reader = Usage(state.client)
    books = [reader.of(name, apart) for name in classes]
    made = report(
        (use for each in books for use in each.uses(window.since, window.until)),
        (one for each in books for one in each.had(window.since, window.until)),
        KEYS[by],
    )
    return shown(made, by), sum(each.lost for each in books)


def shown(made: Report, by: str) -> dict[str, Any]:
    """Return a report whose rounded numbers add up."""
    names = sorted(made.lines, key=lambda name: _order(by, name, made.lines[name]))
    lines = [made.lines[name] for name in names]
    total = made.total
    # Of the sums of all, idle is what is left: then each part fits the whole.
    parts = {
        "gpu_seconds": (int(total.used), [each.used for each in lines]),
        "wasted_gpu_seconds": (int(total.wasted), [each.wasted for each in lines]),
        "cost": (int(total.cost), [each.cost for each in lines]),
        "waste": (int(total.waste), [each.waste for each in lines]),
    }
    columns = {name: rounded(*whole) for name, whole in parts.items()}
    sums = {name: whole for name, (whole, _) in parts.items()}
    capacity, value = int(total.capacity), round(total.value)
    idle = capacity - sums["gpu_seconds"] - sums["wasted_gpu_seconds"]
    unused = value - sums["cost"] - sums["waste"]
    priced = total.priced
    return {
        "lines": [
            {
                by: name,
                **_counted(each),
                **{
                    key: _decimal(columns[key][at]) for key in ("gpu_seconds", "wasted_gpu_seconds")
                },
                **{key: _money(columns[key][at], priced) for key in ("cost", "waste")},
            }
            for at, (name, each) in enumerate(zip(names, lines, strict=True))
        ],
        "total": {
            **_counted(total),
            "jobs": _pair(sums["gpu_seconds"], sums["cost"], priced),
            "waste": _pair(sums["wasted_gpu_seconds"], sums["waste"], priced),
            "idle": _pair(idle, unused, priced),
            "capacity": _pair(capacity, value, priced),
        },
    }


def _order(by: str, name: str, sums: Sums) -> tuple[Fraction, str]:
    return (Fraction(0) if by == "day" else -(sums.used + sums.wasted), name)


def _counted(sums: Sums) -> dict[str, Any]:
    return {
        "attempts": sums.attempts,
        "running": sums.running,
        "held_seconds": _decimal(sums.held),
        "waited_seconds": _decimal(sums.waited),
    }


def _pair(length: int, cost: int, priced: bool) -> dict[str, str | None]:
    return {"gpu_seconds": _decimal(length), "cost": _money(cost, priced)}


def _decimal(millionths: int) -> str:
    """Write a number of millionths with all its digits."""
    sign = "-" if millionths < 0 else ""
    return f"{sign}{abs(millionths) // 10**6}.{abs(millionths) % 10**6:06d}"


def _money(millionths: int, priced: bool) -> str | None:
    return _decimal(millionths) if priced else None


def write_csv(found: dict[str, Any], by: str, file: TextIO) -> None:
    """Write the lines of a report. A name that spreadsheets would compute begins with ``'``."""
    writer = csv.DictWriter(file, (by, *_COLUMNS), lineterminator="\n")
    writer.writeheader()
    for line in found["lines"]:
        name = f"'{line[by]}" if line[by].startswith(_FORMULAS) else line[by]
        writer.writerow({by: name, **{column: line[column] for column in _COLUMNS}})


def show(found: dict[str, Any], by: str, window: Window) -> None:
    """Print the report for people, in 80 columns."""
    total = found["total"]
    priced = total["capacity"]["cost"] is not None
    heads = ["ATTEMPTS", "GPU HOURS", "WASTED", "MEAN WAIT"]
    heads += ["COST", "WASTE"] if priced else []
    click.echo(f"{_iso(window.since)} to {_iso(window.until)}")
    click.echo(_row(by.upper(), heads))
    for line in found["lines"]:
        cells = [str(line["attempts"]), _hours(line["gpu_seconds"])]
        cells += [_hours(line["wasted_gpu_seconds"]), _mean(line)]
        cells += [_cents(line["cost"]), _cents(line["waste"])] if priced else []
        click.echo(_row(line[by], cells))
    click.echo()
    for name in ("jobs", "waste", "idle", "capacity"):
        one = total[name]
        cells = ["", _hours(one["gpu_seconds"]), "", ""]
        click.echo(_row(name, [*cells, _cents(one["cost"]), ""] if priced else cells).rstrip())
    if total["running"]:
        click.echo(f"\n{total['running']} attempts still run; their time until now is counted")


def _row(name: str, cells: list[str]) -> str:
    name = render.plain(name)
    if len(name) > _WIDTH:
        name = f"{name[: _WIDTH - 1]}…"
    widths = (8, 10, 8, 9, 9, 7)
    return f"{name:<{_WIDTH}}" + "".join(
        f" {cell:>{width}}" for cell, width in zip(cells, widths, strict=False)
    )


def _mean(line: dict[str, Any]) -> str:
    ended = line["attempts"]
    return render.duration(float(line["waited_seconds"]) / ended) if ended else ""


def _hours(seconds: str) -> str:
    return f"{float(seconds) / 3600:.2f}"


def _cents(cost: str | None) -> str:
    return "" if cost is None else f"{float(cost):.2f}"


def _date(micros: int) -> str:
    return _iso(micros)[:10]


def _iso(micros: int) -> str:
    return datetime.fromtimestamp(micros // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
