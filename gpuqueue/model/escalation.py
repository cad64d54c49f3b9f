"""Where a job goes that has run out of GPU memory: the places in its record. Pure.

A place is a class and an isolation. The fields ``larger`` and ``escalated`` of a record have it as
``CLASS ISOLATION``.
"""

from __future__ import annotations

from typing import NamedTuple

from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record

#: The place of a job that asked for a larger one where there is none.
NOWHERE = "none"


class MemoryPlace(NamedTuple):
    """A class and an isolation."""

    gpu_class: str
    isolation: str

    def text(self) -> str:
        """Return it as a record has it."""
        return f"{self.gpu_class} {self.isolation}"

    def words(self) -> str:
        """Return it for people."""
        return f"{self.gpu_class} ({self.isolation})"


def parse_place(text: str | None) -> MemoryPlace | None:
    """Return the place in a field of a record; None: there is none."""
    gpu_class, _, isolation = (text or "").partition(" ")
    return MemoryPlace(gpu_class, isolation) if isolation else None


def place_of(record: Record) -> MemoryPlace:
    """Return where a job runs, or ran last."""
    return MemoryPlace(record["gpu_class"], record["isolation"])


def moves(record: Record) -> bool:
    """Whether a job that is about to end goes to another class instead: see
    lua/lib/escalation.lua.
    """
    due = record.get("outcome") == EndReason.ESCALATED and record.get("reason") == EndReason.GPU_OOM
    return due and parse_place(record.get("larger")) is not None


def why_not_again(record: Record) -> str | None:
    """Return why a job without GPU memory does not run again, though it asked for that."""
    here = place_of(record).words()
    if before := parse_place(record.get("escalated")):
        return f"out of GPU memory in {here}, as before in {before.words()}"
    if record.get("larger") == NOWHERE:
        return f"out of GPU memory in {here}; no class that fits it is larger"
    return None
