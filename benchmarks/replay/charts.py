"""The charts of the picture: slots and lines over time, and waits. SVG from schedules. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from benchmarks.replay.loop import Event, Played
from benchmarks.replay.tables import duration
from benchmarks.replay.traces import Job, Shape
from gpuqueue.model.names import ISOLATIONS

#: Units of the drawings: width, the column of labels, the axis, the slot of a GPU, the gap between
#: two GPUs, the height of the line.
WIDTH, LEFT, AXIS, SLOT, GAP, LINE = 1000.0, 64.0, 22.0, 9.0, 5.0, 74.0
#: The chart of waits.
WAITS_WIDTH, WAITS_HEIGHT, WAITS_LEFT = 480.0, 240.0, 52.0
_STEPS = (
    1,
    5,
    10,
    30,
    60,
    300,
    600,
    1800,
    3600,
    7200,
    21_600,
    43_200,
    86_400,
    172_800,
    432_000,
    864_000,
)
#: Marks of the axis of waits, in seconds.
_MARKS = {1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h"}
_MARKS |= {86_400: "1 d", 864_000: "10 d", 8_640_000: "100 d"}
#: How many points of a curve are drawn.
POINTS = 160
#: Maps a time to an x coordinate.
Scale = Callable[[float], float]


def slots_chart(name: str, jobs: Sequence[Job], played: Played, shape: Shape, end: float) -> str:
    """Draw which isolation held which slot of which GPU, over the number of waiting jobs."""

    def x(time: float) -> float:
        return LEFT + time / end * (WIDTH - LEFT - 8)

    tall = shape.slots * SLOT
    top = AXIS + shape.gpus * (tall + GAP)
    paths: dict[str, list[str]] = {isolation: [] for isolation in ISOLATIONS}
    for job, run in zip(jobs, played.runs, strict=True):
        wide = max(0.3, x(run.end) - x(run.start))
        y = AXIS + run.gpu * (tall + GAP) + (run.lane * SLOT if job.shares else 0)
        high = SLOT if job.shares else tall
        paths[job.isolation].append(
            f"M{x(run.start):.1f} {y:.0f}h{wide:.1f}v{high:.0f}h-{wide:.1f}z"
        )
    drawn = [_time_axis(x, end, top + LINE)]
    for gpu in range(shape.gpus):
        y = AXIS + gpu * (tall + GAP)
        drawn.append(
            f'<rect class="lane" x="{LEFT}" y="{y}" width="{WIDTH - LEFT - 8:.0f}"'
            f' height="{tall}"/>'
            f'<text x="4" y="{y + tall / 2 + 4:.0f}">GPU {gpu + 1}</text>'
        )
    drawn += [f'<path class="bars {kind}" d="{"".join(path)}"/>' for kind, path in paths.items()]
    drawn.append(_line(jobs, played, x, top))
    last = max(run.end for run in played.runs)
    described = f"{len(jobs)} jobs; the last one ends after {duration(last)}."
    return _svg(name, "Slots and waiting jobs over time", described, WIDTH, top + LINE + 2, drawn)


def _line(jobs: Sequence[Job], played: Played, x: Scale, top: float) -> str:
    waits: dict[str, list[tuple[float, int]]] = {isolation: [(0.0, 0)] for isolation in ISOLATIONS}
    for event, number in played.log:
        line = waits[jobs[number].isolation]
        if event == Event.ARRIVAL:
            line.append((jobs[number].arrival, line[-1][1] + 1))
        elif event == Event.START:
            line.append((played.runs[number].start, line[-1][1] - 1))
    most = max(count for line in waits.values() for _, count in line) or 1
    base = top + LINE - 4

    def y(count: int) -> float:
        return base - count / most * (LINE - 14)

    drawn = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{base}" y2="{base}"/>',
        f'<text x="4" y="{top + 22:.0f}">waiting</text>',
        f'<text class="faint" x="4" y="{top + 36:.0f}">≤ {most:,}</text>',
    ]
    for isolation, line in waits.items():
        path, at = [f"M{LEFT} {y(0):.1f}"], LEFT
        for (time, count), (later, _) in zip(line, [*line[1:], (float("inf"), 0)], strict=True):
            if later == float("inf") or x(later) - at >= 0.5:  # the last of one half of a unit
                at = x(time)
                path.append(f"H{at:.1f}V{y(count):.1f}")
        drawn.append(f'<path class="count {isolation}" d="{"".join(path)}"/>')
    return "".join(drawn)


def waits_chart(name: str, isolation: str, waits: Mapping[str, Sequence[float]]) -> str:
    """Draw the waits of one isolation by the share of jobs that waited no longer; ``waits`` has
    scheduler → the waits of its jobs, ours first.
    """
    longest = max(10.0, *(max(each, default=0.0) for each in waits.values()))
    right, low = WAITS_WIDTH - 18, WAITS_HEIGHT - 24

    def y(wait: float) -> float:
        # As a logarithm, with everything below 1 s on the ground.
        return round(low - _log(wait) / _log(longest) * (low - 12), 1)

    def x(share: float) -> float:
        return round(WAITS_LEFT + share * (right - WAITS_LEFT), 1)

    drawn = []
    for mark, text in _MARKS.items():
        if mark <= longest:
            at = y(mark)
            drawn.append(
                f'<line class="grid" x1="{WAITS_LEFT}" x2="{right}" y1="{at}" y2="{at}"/>'
                f'<text class="faint" x="{WAITS_LEFT - 6}" y="{at + 4}" text-anchor="end">{text}'
                "</text>"
            )
    drawn += [
        f'<text class="faint" x="{x(share)}" y="{low + 16}" text-anchor="middle">{share:.0%}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    for index, (label, values) in enumerate(waits.items()):
        ordered = sorted(values)
        if not ordered:
            continue
        last = len(ordered) - 1
        places = sorted({round(last * step / POINTS) for step in range(POINTS + 1)})
        path = "L".join(f"{x(place / (last or 1))} {y(ordered[place])}" for place in places)
        own = " own" if index == 0 else ""
        drawn.append(
            f'<path class="curve s{index}{own}" d="M{path}"><title>{escape(label)}</title></path>'
        )
    title = f"Waits of {isolation} jobs"
    described = "Across: the share of jobs that waited no longer. Up: the wait, as a logarithm."
    return _svg(name, title, described, WAITS_WIDTH, WAITS_HEIGHT, drawn)


def swatch(index: int) -> str:
    """Return the line of a scheduler, for a legend."""
    own = " own" if index == 0 else ""
    return (
        '<svg viewBox="0 0 32 16" aria-hidden="true">'
        f'<path class="curve s{index}{own}" d="M0 8H32"/></svg>'
    )


def waits_of(jobs: Sequence[Job], played: Played, isolation: str) -> list[float]:
    """Return the waits of the jobs of one isolation."""
    return [
        run.start - job.arrival
        for job, run in zip(jobs, played.runs, strict=True)
        if job.isolation == isolation
    ]


def _log(wait: float) -> float:
    return math.log10(max(1.0, wait))


def _time_axis(x: Scale, end: float, bottom: float) -> str:
    step = next((each for each in _STEPS if end / each <= 12), 10 * _STEPS[-1])
    drawn = []
    for index in range(int(end / step) + 1):
        at = round(x(index * step), 1)
        text = duration(index * step) if step < 86_400 else f"{index * step // 86_400} d"
        drawn.append(
            f'<line class="grid" x1="{at}" x2="{at}" y1="{AXIS - 6}" y2="{bottom:.0f}"/>'
            f'<text class="faint" x="{at}" y="{AXIS - 10}" text-anchor="middle">{text}</text>'
        )
    return "".join(drawn)


def _svg(
    name: str, title: str, described: str, width: float, height: float, drawn: Sequence[str]
) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img"'
        f' aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(title)}'
        f'</title><desc id="{name}-desc">{escape(described)} The table has the figures.</desc>'
        f"{''.join(drawn)}</svg>"
    )
