"""The charts of the timeline: SVG from entries. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from gpuqueue.cli.view.timeline_entries import Entry, ended, pack, told
from gpuqueue.model.names import EXCLUSIVE

#: Units of the drawing: its width, the column of labels, one lane, one waiting line.
WIDTH, LEFT, LANE, THIN = 1000.0, 150.0, 34.0, 18.0
AXIS = 24.0
#: Seconds between two ticks of the axis: the first value that gives at most 12 ticks.
TICKS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 86_400)
#: Average width of a letter in the drawing's font, to shorten labels to their bar.
LETTER = 6.0


class Scale:
    """Maps times to x coordinates."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.begin = min(each.record["created"] for each in entries)
        last = max(
            max(each.left, *(each.held or (0.0,)), each.record.get("ended", 0.0))
            for each in entries
        )
        self.seconds = max(1.0, last - self.begin)

    def __call__(self, time: float) -> float:
        return round(LEFT + (time - self.begin) / self.seconds * (WIDTH - LEFT - 10), 1)

    def axis(self, height: float) -> str:
        """Return the ticks, with grid lines down to ``height``."""
        step = next((each for each in TICKS if self.seconds / each <= 12), TICKS[-1])
        drawn = []
        for second in range(0, int(self.seconds) + 1, step):
            x = self(self.begin + second)
            drawn.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{AXIS - 6}" y2="{height}"/>')
            drawn.append(
                f'<text class="faint" x="{x}" y="{AXIS - 10}" text-anchor="middle">{second}'
                " s</text>"
            )
        return "".join(drawn)


def slots_chart(entries: Sequence[Entry], scale: Scale) -> str:
    """Draw which job held a slot, and when."""
    lanes = pack(entries)
    height = AXIS + LANE * max(1, len(lanes))
    drawn = [
        f'<rect class="lane" x="0" y="{AXIS + LANE * index + 1}" width="{WIDTH:.0f}"'
        f' height="{LANE - 2}"/><text x="8" y="{AXIS + LANE * (index + 0.62):.1f}">slot'
        f" {index + 1}</text>"
        for index in range(len(lanes))
    ]
    drawn.append(scale.axis(height))
    holders = [each for lane in lanes for each in lane]
    for index, lane in enumerate(lanes):
        for each in lane:
            # Drawn over all lanes only if it hides no other job: broken promises must stay visible.
            alone = each.record["isolation"] == EXCLUSIVE and not any(
                _meet(each, other) for other in holders if other is not each
            )
            top, tall = (0, len(lanes)) if alone else (index, 1)
            drawn.append(_bar(each, scale, AXIS + LANE * top + 3, LANE * tall - 6))
    shown = f"{len(holders)} jobs held a slot, {len(lanes)} at most at once."
    return _svg("chart-slots", "Slots over time", shown, height + 4, "".join(drawn))


def _bar(entry: Entry, scale: Scale, y: float, height: float) -> str:
    assert entry.held is not None
    begin, end = (scale(each) for each in entry.held)
    width = max(2.0, round(end - begin, 1))
    ready = min(max(0.0, scale(entry.record.get("started") or entry.held[1]) - begin), width)
    held_only = f'width="{max(0.0, ready - 1):.1f}" height="{height - 2:.1f}"'
    alone = entry.record["isolation"] == EXCLUSIVE
    words = [("" if entry.succeeded else "✕ ") + entry.label, *(["exclusive"] if alone else [])]
    lines = words if height > LANE else [" · ".join(words)]
    middle = y + height / 2 + 4 - 7 * (len(lines) - 1)
    text = "".join(
        f'<text class="name" x="{begin + 5}"'
        f' y="{middle + 14 * row:.1f}">{escape(_fit(line, width - 8))}</text>'
        for row, line in enumerate(lines)
    )
    kinds = f"job {entry.record['isolation']}" + ("" if entry.succeeded else " bad")
    return (
        f'<g class="{escape(kinds)}"><title>{escape(told(entry))}</title>'
        f'<rect class="body" x="{begin}" y="{y:.1f}" width="{width}" height="{height:.1f}" rx="4"/>'
        f'<rect class="start" x="{begin + 1}" y="{y + 1:.1f}" {held_only} rx="3"/>'
        f"{text}</g>"
    )


def line_chart(entries: Sequence[Entry], scale: Scale) -> str:
    """Draw which jobs waited, and how long."""
    height = AXIS + THIN * len(entries)
    drawn = [scale.axis(height)]
    for index, each in enumerate(entries):
        y = AXIS + THIN * (index + 0.5)
        begin, end = scale(each.record["created"]), scale(each.left)
        gone = "" if each.held else ' class="gone"'
        fate = (
            ""
            if each.held
            else (
                f'<text class="faint" x="{end + 8}" y="{y + 4}">✕ left the line:'
                f" {escape(ended(each))}</text>"
            )
        )
        drawn.append(
            f'<g class="waiting"><title>{escape(told(each))}</title><text class="faint" x="8"'
            f' y="{y + 4}">{escape(_fit(each.label, LEFT - 16))}</text><line x1="{begin}"'
            f' x2="{end}" y1="{y}" y2="{y}"/><circle{gone} cx="{end}" cy="{y}" r="3.5"/>{fate}</g>'
        )
    longest = max(each.left - each.record["created"] for each in entries)
    return _svg(
        "chart-line",
        "Waiting time of each job",
        f"The longest wait was {longest:.1f} s.",
        height + 4,
        "".join(drawn),
    )


def _svg(name: str, title: str, described: str, height: float, content: str) -> str:
    stripes = (
        '<defs><pattern id="stripes" width="8" height="8" patternUnits="userSpaceOnUse"'
        ' patternTransform="rotate(45)"><rect width="8" height="8"'
        ' style="fill:var(--exclusive);stroke:none"/><rect width="3" height="8"'
        ' style="fill:var(--stripe);stroke:none"/></pattern></defs>'
        if name == "chart-slots"
        else ""
    )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img"'
        f' aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{title}</title><desc'
        f' id="{name}-desc">{described} The table below has every'
        f" job.</desc>{stripes}{content}</svg>"
    )


def _meet(one: Entry, other: Entry) -> bool:
    return bool(
        one.held and other.held and one.held[0] < other.held[1] and other.held[0] < one.held[1]
    )


def _fit(text: str, width: float) -> str:
    room = int(width / LETTER)
    return text if len(text) <= room else text[: room - 1] + "…" if room > 3 else ""
