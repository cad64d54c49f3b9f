"""The page and the diagram of the reliability of forecasts, from the newest run that was kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from docs.generate.markdown import page, table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
#: Percent of the starts that the range of 80 % should hold.
LEAST, MOST = 75, 85
_PART = re.compile(r"starts within the range of (\d+)%")
#: Pixels of the diagram and of its margin, and a colour and dash for each workload.
SIZE, MARGIN = 360, 50
STYLES = (("#0072b2", ""), ("#d55e00", "6 3"))

METHOD = """
[`gpuqueue why`](../howto/when.md) gives a range for the start of a waiting job.
`make bench reliability` asks at arrivals of recorded workloads, and compares it with the start.
The real scripts run on a real Redis and a simulated clock, with 4 GPUs of 4 shared slots.
No job declares a limit: a forecast knows only the run times and arrivals before it.
A good forecast holds as much as it says: its line lies on the diagonal.

![Share of starts within a range, over the share that it is said to hold](reliability.svg)
"""

MEANING = """
A range without an end ("later than") holds every later start.
That is easily right, so ranges with an end are also counted alone.
The traces are not part of the project; see [Replay of real workloads](replay.md#run-it).

```sh
make bench reliability TRACES=../traces
```
"""


def newest() -> Path:
    """Return the newest run that was kept."""
    return max(RESULTS.glob("20*-reliability.json"))


def workloads() -> dict[str, dict[str, float]]:
    """Return workload → figure → value."""
    known = json.loads(newest().read_text())
    figures: list[dict[str, Any]] = known["benchmarks"]["reliability"]["figures"]
    found: dict[str, dict[str, float]] = {}
    for each in figures:
        title, _, name = each["name"].rpartition(": ")
        found.setdefault(title, {})[name] = each["ours"]["median"]
    return found


def parts(figures: dict[str, float]) -> dict[int, float]:
    """Return percent said → percent found."""
    return {
        int(match.group(1)): value
        for name, value in figures.items()
        if (match := _PART.fullmatch(name))
    }


def make() -> str:
    """Make the page."""
    known = workloads()
    said = list(parts(next(iter(known.values()))))
    rows = [
        (f"{each} %", *(f"{parts(figures)[each]:.0f} %" for figures in known.values()))
        for each in said
    ]
    rest = [name for name in next(iter(known.values())) if not _PART.fullmatch(name)]
    others = [
        (name, *(f"{figures[name]:,.0f}{_unit(name)}" for figures in known.values()))
        for name in rest
    ]
    return page(
        "Reliability of forecasts",
        METHOD,
        f"The figures are those of `benchmarks/results/{newest().name}`.",
        table(("said to hold", *known), rows),
        "The aim is 75 to 85 % for the range of 80 %.",
        "\n".join(f"- {title}: {_verdict(parts(each)[80])}." for title, each in known.items()),
        table(("", *known), others),
        MEANING,
    )


def _verdict(percent: float) -> str:
    if LEAST <= percent <= MOST:
        return "met"
    return "missed, its ranges are too " + ("narrow" if percent < LEAST else "wide")


def _unit(name: str) -> str:
    units = {"CPU": " ms", "wait": " s", "starts": " %", "ranges": " %", "width": " %"}
    return units.get(name.partition(" ")[0].rstrip(","), "")


def draw() -> str:
    """Draw the diagram."""
    side, total = SIZE, SIZE + 2 * MARGIN
    shapes = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {total}" role="img"'
        ' font-family="sans-serif" font-size="12" fill="#555">',
        "<title>Reliability of the ranges that gpuqueue why gives</title>",
        f'<rect x="{MARGIN}" y="{MARGIN}" width="{side}" height="{side}" fill="none"'
        ' stroke="#999"/>',
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(100)}" y2="{_y(100)}" stroke="#999"'
        ' stroke-dasharray="2 4"/>',
        f'<text x="{_x(50)}" y="{total - 12}" text-anchor="middle">said to hold, %</text>',
        f'<text x="14" y="{_y(50)}" text-anchor="middle"'
        f' transform="rotate(-90 14 {_y(50)})">held, %</text>',
    ]
    for value in (0, 50, 80, 100):
        shapes += [
            f'<text x="{_x(value)}" y="{_y(0) + 18}" text-anchor="middle">{value}</text>',
            f'<text x="{_x(0) - 6}" y="{_y(value) + 4}" text-anchor="end">{value}</text>',
        ]
    for at, (title, figures) in enumerate(workloads().items()):
        colour, dash = STYLES[at % len(STYLES)]
        points = " ".join(f"{_x(said)},{_y(held)}" for said, held in parts(figures).items())
        line = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        shapes += [
            f'<polyline points="{points}" {line}/>',
            f'<text x="{_x(4)}" y="{_y(94 - 6 * at)}" fill="{colour}">{title}</text>',
        ]
    return "\n".join([*shapes, "</svg>"]) + "\n"


def _x(percent: float) -> float:
    return round(MARGIN + percent * SIZE / 100, 1)


def _y(percent: float) -> float:
    return round(MARGIN + SIZE - percent * SIZE / 100, 1)
