"""The boxes of ``gpuqueue top``: one row of cells for each domain. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.text import Text

from gpuqueue.cli.view.render import plain
from gpuqueue.model.names import EXCLUSIVE, SHARED

#: The most cells of a box: a larger domain is drawn to scale.
MOST_CELLS = 24


class Cell(NamedTuple):
    """One kind of cell."""

    mark: str
    style: str
    meaning: str


TAKEN = Cell("■", "green", "shared")
ALONE = Cell("█", "magenta", "exclusive")
FREE = Cell("□", "", "free")
DRAINED = Cell("▽", "yellow", "drains for an exclusive job")
RESERVED = Cell("◇", "yellow", "reserved for a job of several GPUs")
ASIDE = Cell("✕", "red", "set aside")
TO_COME = Cell("·", "dim", "no node yet")
CELLS = (TAKEN, ALONE, FREE, TO_COME, DRAINED, RESERVED, ASIDE)


def cells(one: Mapping[str, Any]) -> list[Cell]:
    """Return the cells of a domain: taken ones first."""
    slots, held = one["slots"], one["held"]
    many = min(max(slots.values()), MOST_CELLS)
    shared = _scaled(held[SHARED], slots[SHARED], many)
    # An exclusive job has its GPU to itself: the only one fills the box.
    alone = min(_scaled(held[EXCLUSIVE], slots[EXCLUSIVE], many), many - shared)
    free = FREE if one.get("bound", True) else TO_COME
    kept = DRAINED if one["drained"] else RESERVED if one["reserved"] else free
    rest = ASIDE if one["set_aside"] else kept
    return [TAKEN] * shared + [ALONE] * alone + [rest] * (many - shared - alone)


def _scaled(held: int, total: int, many: int) -> int:
    """Return how many cells are taken: at least one if any slot is, not all if one is free."""
    if not held or not many:
        return 0
    if held >= total:
        return many
    return max(1, min(held * many // total, many - 1))


def box(one: Mapping[str, Any]) -> Text:
    """Return one domain as a row of cells, after its name."""
    name = one["name"] if one.get("bound", True) else "new"
    made = Text(f"{plain(name)} " if name else "")
    made.append("[", "dim")
    for cell in cells(one):
        made.append(cell.mark, cell.style)
    made.append("]", "dim")
    return made


def summary(hidden: list[dict[str, Any]]) -> str:
    """Return what the boxes that are not drawn have."""
    idle = sum(1 for one in hidden if not any(one["held"].values()))
    alone = sum(1 for one in hidden if one["held"][EXCLUSIVE])
    shared = len(hidden) - idle - alone
    return f"and {len(hidden)} more: {shared} shared, {alone} exclusive, {idle} idle"
