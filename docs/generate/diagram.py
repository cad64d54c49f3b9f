"""The drawing of the states and their legal moves, as SVG."""

from __future__ import annotations

from gpuqueue.model.states import MOVES, JobState

_WIDTH, _HEIGHT = 96, 36
#: Where the box of each state stands: the middle, in pixels.
_AT = {
    JobState.ACCEPTED: (60, 40),
    JobState.WAITING: (210, 40),
    JobState.LAUNCHING: (360, 40),
    JobState.RUNNING: (510, 40),
    JobState.REPORTING: (660, 40),
    JobState.ENDED: (810, 40),
    JobState.DELAYED: (210, 130),
    JobState.FINISHING: (510, 220),
}
#: Moves that are not drawn as a straight line between two sides: the points on their way.
_WAYS = {
    (JobState.ACCEPTED, JobState.DELAYED): [(75, 58), (75, 130), (162, 130)],
    (JobState.ACCEPTED, JobState.FINISHING): [(45, 58), (45, 220), (462, 220)],
    (JobState.DELAYED, JobState.WAITING): [(210, 112), (210, 58)],
    (JobState.DELAYED, JobState.FINISHING): [(210, 148), (210, 208), (462, 208)],
    (JobState.WAITING, JobState.FINISHING): [(245, 58), (478, 202)],
    (JobState.LAUNCHING, JobState.DELAYED): [(345, 58), (345, 122), (258, 122)],
    (JobState.LAUNCHING, JobState.FINISHING): [(375, 58), (494, 202)],
    (JobState.RUNNING, JobState.DELAYED): [(495, 58), (495, 138), (258, 138)],
    (JobState.RUNNING, JobState.FINISHING): [(515, 58), (515, 202)],
    (JobState.REPORTING, JobState.FINISHING): [(660, 58), (660, 212), (558, 212)],
    (JobState.FINISHING, JobState.ENDED): [(558, 228), (810, 228), (810, 58)],
}
_STYLE = """
  rect { fill: #e0f2f1; stroke: #00796b; rx: 6 }
  text { fill: #1a1a1a; font: 14px monospace; text-anchor: middle; dominant-baseline: central }
  polyline { fill: none; stroke: #00796b; stroke-width: 1.5; marker-end: url(#head) }
  path { fill: #00796b }
  @media (prefers-color-scheme: dark) {
    rect { fill: #00332e; stroke: #4db6ac }
    text { fill: #eeeeee }
    polyline { stroke: #4db6ac }
    path { fill: #4db6ac }
  }
"""
_HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7"'
    ' orient="auto"><path d="M0,0 L8,4 L0,8 Z"/></marker></defs>'
)


def make() -> str:
    """Make the drawing: a box for each state, an arrow with a title for each move."""
    moves = [
        _arrow(state, after) for state in JobState for after in JobState if after in MOVES[state]
    ]
    parts = [f"<style>{_STYLE}</style>", _HEAD, *moves, *(_box(state) for state in JobState)]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 870 250" role="img"'
        ' aria-label="The states of a job and the moves between them">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _box(state: JobState) -> str:
    x, y = _AT[state]
    corner = f'x="{x - _WIDTH // 2}" y="{y - _HEIGHT // 2}"'
    return (
        f'<rect {corner} width="{_WIDTH}" height="{_HEIGHT}"/><text x="{x}" y="{y}">{state}</text>'
    )


def _arrow(state: JobState, after: JobState) -> str:
    (x, y), (to, _) = _AT[state], _AT[after]
    straight = [(x + _WIDTH // 2, y), (to - _WIDTH // 2, y)]
    points = " ".join(f"{left},{top}" for left, top in _WAYS.get((state, after), straight))
    return f'<polyline points="{points}"><title>{state} → {after}</title></polyline>'
