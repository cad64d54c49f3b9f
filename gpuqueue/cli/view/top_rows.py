"""The lists of ``gpuqueue top``: who waits, who runs, which tenants. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from gpuqueue.cli.view import render
from gpuqueue.cli.view.top import NO_TENANT
from gpuqueue.cli.view.top_boxes import ALONE, TAKEN, Cell
from gpuqueue.cli.view.top_text import Piece, cells, flow
from gpuqueue.model.names import EXCLUSIVE
from gpuqueue.model.states import JobState

#: Columns of an id (those of a UUID), of a duration, of tenants and GPUs at the least.
_ID, _TIME, _TENANT, _WHERE = 36, 7, 10, 8
#: Columns from which a row has all its parts; those that an id and a name have at the least.
_WIDE, _SHORTEST = 76, 11
#: The part of its time limit after which a job is marked.
_LATE = 0.9
#: States that need no word.
_PLAIN = {JobState.RUNNING, JobState.REPORTING}


def waiting_rows(
    lines: Sequence[Mapping[str, Any]], now: float, width: int, rows: int
) -> Iterator[Text]:
    """Yield the lines of each class and isolation: the reason, and the jobs that are next."""
    if not lines:
        return
    yield Text.assemble(("WAITING", "bold"), ("  who is next, and since when", "dim"))
    for each in lines:
        yield Text.assemble(
            (f"{render.plain(each['gpu_class'])} {each['isolation']}", _mark(each).style),
            f"  {each['total']} in line",
            (f"  {each['reason']}" if each["reason"] else "", "yellow"),
        )
        for job in each["jobs"][:rows]:
            tail: list[tuple[Piece, int]] = [(render.ago(job.get("since"), now), -_TIME)]
            if width >= _WIDE and any(one.get("tenant") for one in each["jobs"]):
                tail.insert(0, (render.plain(job.get("tenant") or ""), _TENANT + (width - 80) // 4))
            yield _row(f"{job['place']:>3} ", job, tail, width)


def running_rows(
    jobs: Sequence[Mapping[str, Any]], now: float, width: int, rows: int
) -> Iterator[Text]:
    """Yield the jobs that hold a slot the longest, with their time limits."""
    if not jobs:
        return
    yield Text.assemble(("RUNNING LONGEST", "bold"), ("  held / time limit", "dim"))
    for job in jobs[:rows]:
        held = max(0.0, now - job["since"]) if job.get("since") else 0.0
        limit = job.get("time_limit")
        late = limit is not None and held >= _LATE * limit
        ran = Text(f"{render.duration(held)}", "red" if late else "")
        of = Text(f"/ {render.duration(limit) if limit else 'none'}", "dim")
        tail: list[tuple[Piece, int]] = [(ran, -_TIME), (of, _TIME + 2)]
        if width >= _WIDE:
            where = "" if job.get("where") is None else render.plain(job["where"])
            words = f"{render.plain(job['gpu_class'])} {where}".rstrip()
            tail.insert(0, (words, _WHERE + (width - 80) // 4))
        yield _row(f"  {_mark(job).mark} ", job, tail, width, _mark(job).style)
        if job["stands"] not in _PLAIN:
            told = job["stands"] + (f": {job['detail']}" if job.get("detail") else "")
            yield Text(f"    {render.plain(told)}", "yellow")


def tenant_rows(found: Mapping[str, Any], width: int, rows: int) -> Iterator[Text]:
    """Yield the most active tenants; nothing while no job names one."""
    tenants = found["tenants"]
    if all(each["tenant"] == NO_TENANT for each in tenants):
        return
    part = any(each["total"] > len(each["jobs"]) for each in found["next"])
    yield Text.assemble(
        ("TENANTS", "bold"), ("  among the first jobs of each line" if part else "", "dim")
    )
    shown = [
        Text(f"{render.plain(one['tenant'])} {one['running']} running, {one['waiting']} waiting")
        for one in tenants
    ]
    wide = max(one.cell_len for one in shown)
    for one in shown:
        one.pad_right(wide - one.cell_len)
    per_row = max(1, (width - 2) // (wide + 3))
    # The line that counts the others may as well have them.
    most = (rows + 1 if len(shown) <= (rows + 1) * per_row else rows) * per_row
    yield from flow(shown[:most], width, first="  ", indent="  ", gap="   ")
    if shown[most:]:
        yield Text(f"  and {len(shown) - most} more", "dim")


def _row(
    head: str,
    job: Mapping[str, Any],
    tail: list[tuple[Piece, int]],
    width: int,
    style: str = "",
) -> Text:
    """Return a row: the whole id if there is room, and as much of the name as fits."""
    room = width - len(head) - 1 - sum(abs(columns) + 1 for _, columns in tail)
    ident = min(_ID, max(_SHORTEST, room - _SHORTEST - 1))
    columns = max(_SHORTEST, room - ident - 1)
    name = render.plain(job["name"])
    if Text(name).cell_len > columns:
        name = name.rpartition(".")[2]
    parts: list[tuple[Piece, int]] = [(render.plain(job["id"]), ident), (name, columns)]
    return Text.assemble((head, style), cells([*parts, *tail]))


def _mark(job: Mapping[str, Any]) -> Cell:
    return ALONE if job["isolation"] == EXCLUSIVE else TAKEN
