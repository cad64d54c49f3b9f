"""The picture: one self-contained HTML page, in the style of the demo's timeline. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

from benchmarks.replay.charts import slots_chart, swatch, waits_chart, waits_of
from benchmarks.replay.loop import Played
from benchmarks.replay.scenarios import Scenario
from benchmarks.replay.tables import COLUMNS, cell
from benchmarks.replay.traces import CHARGE, Shape
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED

SUBTITLE = (
    "{gpus} GPUs with {slots} shared slots each. An exclusive job takes a whole GPU. “Charged"
    " {charge} × N”: each of N shared jobs on one GPU takes {charge} × N as long while they share"
    " it; “as recorded”: they do not slow one another. gpuqueue is its scripts on a real Redis"
    " under a simulated clock; the other schedulers are small simulators."
)

KINDS = {
    SHARED: "shared, one slot; solid line: how many wait",
    EXCLUSIVE: "exclusive, a whole GPU; dashed line: how many wait",
}


class Shown(NamedTuple):
    """A scenario with scheduler → its schedule, and → its measures; ours first."""

    scenario: Scenario
    played: Mapping[str, Played]
    measured: Mapping[str, Mapping[str, float]]


def page(found: Sequence[Shown], shape: Shape) -> str:
    """Return the page."""
    timeline = (files("gpuqueue.cli.view") / "timeline.html").read_text(encoding="utf-8")
    style = timeline.partition("<style>\n")[2].partition("\n</style>")[0]
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        style=style,
        subtitle=SUBTITLE.format(gpus=shape.gpus, slots=shape.slots, charge=CHARGE),
        links="\n".join(
            f'<li><a href="#s{number}">{escape(each.scenario.title)}</a></li>'
            for number, each in enumerate(found)
        ),
        sections="\n".join(_section(number, each, shape) for number, each in enumerate(found)),
    )


def _section(number: int, each: Shown, shape: Shape) -> str:
    scenario = each.scenario
    parts = [
        f'<h2 id="s{number}">{escape(scenario.title)}</h2>',
        f"<p>{escape(scenario.what)}</p>",
        _table(number, each),
        "<h3>Waits</h3>",
        '<p class="note">Across: the share of jobs that waited no longer. Up: the wait, as a'
        " logarithm; what is below 1 s is on the ground.</p>",
        '<div class="pair">',
    ]
    for isolation in ISOLATIONS:
        waits = {
            label: waits_of(scenario.jobs, played, isolation)
            for label, played in each.played.items()
        }
        chart = waits_chart(f"s{number}-{isolation}", isolation, waits)
        parts.append(f'<div><p class="note">{isolation} jobs</p>{chart}</div>')
    parts.append("</div>")
    legend = (f"<li>{swatch(index)}{escape(label)}</li>" for index, label in enumerate(each.played))
    parts.append(f'<ul class="legend">{"".join(legend)}</ul>')
    if scenario.drawn:
        parts.append(_slots(number, each, shape))
    return "\n".join(parts)


def _slots(number: int, each: Shown, shape: Shape) -> str:
    end = max(run.end for played in each.played.values() for run in played.runs)
    parts = ["<h3>Slots and lines</h3>", '<ul class="legend">']
    for isolation, what in KINDS.items():
        filled = f'<path class="bars {isolation}" d="M1 1h30v14h-30z"/>'
        parts.append(f'<li><svg viewBox="0 0 32 16" aria-hidden="true">{filled}</svg>{what}</li>')
    parts.append("</ul>")
    for index, (label, played) in enumerate(each.played.items()):
        name = f"s{number}-slots-{index}"
        chart = slots_chart(name, each.scenario.jobs, played, shape, end)
        parts.append(
            f'<h3 id="{name}">{escape(label)}</h3><div class="wide" tabindex="0" role="region"'
            f' aria-labelledby="{name}">{chart}</div>'
        )
    return "\n".join(parts)


def _table(number: int, each: Shown) -> str:
    heads = "".join(f'<th scope="col" class="number">{escape(name)}</th>' for name in COLUMNS)
    rows = []
    for index, (label, measured) in enumerate(each.measured.items()):
        own = " own" if index == 0 else ""
        cells = "".join(
            f'<td class="number{own}">{escape(cell(names, measured))}</td>'
            for names in COLUMNS.values()
        )
        rows.append(f'<tr><th scope="row" class="{own.strip()}">{escape(label)}</th>{cells}</tr>')
    return (
        f'<div class="wide" tabindex="0" role="region" aria-labelledby="s{number}"><table><thead>'
        f'<tr><th scope="col">Scheduler</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>"
    )
