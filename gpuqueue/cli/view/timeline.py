"""The timeline: one self-contained HTML page from the records of jobs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from gpuqueue.cli.view.timeline_charts import Scale, line_chart, slots_chart
from gpuqueue.cli.view.timeline_entries import Entry, ended


def page(title: str, subtitle: str, entries: Sequence[Entry]) -> str:
    """Return the page. ``entries`` holds at least one job, in any order."""
    entries = sorted(entries, key=lambda each: each.record["created"])
    scale = Scale(entries)
    template = Template((files("gpuqueue.cli.view") / "timeline.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        slots=slots_chart(entries, scale),
        line=line_chart(entries, scale),
        rows="\n".join(_row(each) for each in entries),
    )


def _row(entry: Entry) -> str:
    record = entry.record
    ran = f"{entry.held[1] - entry.held[0]:.1f} s" if entry.held else "–"
    outcome = "" if entry.succeeded else ' class="bad"'
    cells = (
        f'<th scope="row">{escape(entry.label)}</th>',
        f"<td>{escape(record['task'].rpartition('.')[2])}</td>",
        f"<td>{escape(record['isolation'])}</td>",
        f'<td class="number">{entry.left - record["created"]:.1f} s</td>',
        f'<td class="number">{ran}</td>',
        f"<td{outcome}>{escape(ended(entry))}</td>",
        f'<td class="note">{escape(entry.outcome)}</td>',
    )
    return f"<tr>{''.join(cells)}</tr>"
