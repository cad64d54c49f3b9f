"""The classes of ``gpuqueue top``: counts, boxes, and what is set aside. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from gpuqueue.cli.view import render
from gpuqueue.cli.view.top_boxes import ALONE, CELLS, TAKEN, box, cells, summary
from gpuqueue.cli.view.top_text import Piece, commas, flow, words
from gpuqueue.cli.view.words import NOT_SERVED
from gpuqueue.model.names import ISOLATIONS

Classes = Sequence[Mapping[str, Any]]
#: The most boxes of a class that are looked at.
_MOST_BOXES = 200


def choose(classes: Classes, most: int) -> tuple[Classes, Classes]:
    """Return the classes to show, those with the most jobs, in their order; and the others."""
    busiest = sorted(classes, key=lambda each: -sum(_jobs(each)))[:most]
    names = {each["name"] for each in busiest}
    return (
        [each for each in classes if each["name"] in names],
        [each for each in classes if each["name"] not in names],
    )


def hidden_classes(hidden: Classes) -> str:
    """Return what the classes that are not shown have."""
    running, waiting = (sum(counts) for counts in zip(*map(_jobs, hidden), strict=True))
    return f"and {len(hidden)} more classes: {running} running, {waiting} waiting"


def _jobs(each: Mapping[str, Any]) -> tuple[int, int]:
    return sum(one["used"] for one in each["slots"].values()), sum(each["waiting_total"].values())


def legend(classes: Classes) -> list[Text]:
    """Return the meanings of the cells that are seen."""
    seen = {cell for each in classes for one in each["boxes"][:_MOST_BOXES] for cell in cells(one)}
    return [
        Text.assemble((cell.mark, cell.style), (f" {cell.meaning}", "dim"))
        for cell in CELLS
        if cell in seen
    ]


def aside_lines(classes: Classes, now: float, most: int) -> Iterator[Text]:
    """Yield the places that are set aside, and the holds."""
    found = [one for each in classes for one in each["places"] if one["set_aside"]]
    for one in found[:most]:
        told = f"{one['place']}: {render.next_try(one, now)}: {one['error']}"
        yield Text(render.plain(told.partition("\n")[0]), "red")
    if found[most:]:
        yield Text(f"and {len(found) - most} more (`gpuqueue places`)", "red")


def class_lines(each: Mapping[str, Any], width: int, rows: int) -> Iterator[Text]:
    """Yield one class: its counts, and its domains as boxes in so many rows."""
    yield from flow(
        [Text(f"{render.plain(each['name'])} ", "bold"), *commas(_counts(each))], width, indent="  "
    )
    if not each["served"]:
        yield from flow(words(NOT_SERVED, "bold red"), width, first="  ", indent="  ")
    boxes = each["boxes"]
    drawn = [box(one) for one in boxes[:_MOST_BOXES]]
    # Boxes of one width stand in columns.
    wide = max(one.cell_len for one in drawn)
    for one in drawn:
        one.pad_right(wide - one.cell_len)
    most = min(_MOST_BOXES, rows * max(1, width // (wide + 2)))
    yield from flow(drawn[:most], width, first="  ", indent="  ", gap="  ")
    if boxes[most:]:
        yield Text(f"  {summary(boxes[most:])}", "dim")


def _counts(each: Mapping[str, Any]) -> list[Piece]:
    slots = each["slots"]
    counts: list[Piece] = [
        Text(f"{kind} {slots[kind]['used']}/{slots[kind]['total']}", cell.style)
        for kind, cell in zip(ISOLATIONS, (TAKEN, ALONE), strict=True)
        if slots[kind]["total"] or slots[kind]["used"]
    ]
    counts.append(f"waiting {sum(each['waiting_total'].values())}")
    counts += [f"{name} {each[name]}" for name in ("delayed", "finishing") if each[name]]
    if each["idle_pods"]:
        counts.append(f"idle pods {each['idle_pods']}")
    if each["gate"]:
        closed = each["gate"]["closed"]
        counts.append(Text("gate closed", "yellow") if closed else "gate open")
    return counts
