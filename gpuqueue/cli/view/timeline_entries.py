"""The jobs of the timeline with their times, and the lanes they are laid out in. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record


@dataclass(frozen=True, slots=True)
class Entry:
    """One job of the page: its label, its record, its outcome in a few words, and when the record
    was read (``seen``, Unix seconds).
    """

    label: str
    record: Record
    outcome: str = ""
    seen: float = 0.0

    @property
    def succeeded(self) -> bool:
        """Whether its task returned."""
        return self.record.get("reason") == EndReason.SUCCEEDED

    @property
    def left(self) -> float:
        """When it left the line, for a slot or for good."""
        return self.record.get("admitted") or self.record.get("ended") or self.record["created"]

    @property
    def held(self) -> tuple[float, float] | None:
        """The time span in which it held a slot; None if it never did."""
        admitted = self.record.get("admitted")
        if admitted is None:
            return None
        return admitted, max(admitted, self.record.get("released") or self.seen)


def pack(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Lay the holders out in as few lanes as possible: each goes to the first free lane."""
    lanes: list[list[Entry]] = []
    ends: list[float] = []
    for begin, end, entry in sorted(
        ((*each.held, each) for each in entries if each.held), key=lambda item: item[:2]
    ):
        free = next((index for index, busy in enumerate(ends) if busy <= begin), len(lanes))
        if free == len(lanes):
            lanes.append([])
            ends.append(end)
        lanes[free].append(entry)
        ends[free] = end
    return lanes


def told(entry: Entry) -> str:
    """Return a job's story in one sentence of plain text."""
    waited = f"waited {entry.left - entry.record['created']:.1f} s"
    ran = (
        f", held its slot {entry.held[1] - entry.held[0]:.1f} s"
        if entry.held
        else ", never held a slot"
    )
    said = f": {entry.outcome}" if entry.outcome else ""
    return f"{entry.label} ({entry.record['isolation']}): {waited}{ran}, {ended(entry)}{said}"


def ended(entry: Entry) -> str:
    """Return why it ended, or that it has not."""
    return str(entry.record.get("reason", "")) or "has not ended"
