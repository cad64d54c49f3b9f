"""One check of the doctor: its level, what it found, and the fix."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gpuqueue.errors import GpuQueueError


class Level(StrEnum):
    """The result of a check."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what it found and how to fix it. ``fix`` is empty when nothing needs doing."""

    name: str
    level: Level
    saw: str
    fix: str = ""

    @classmethod
    def failed(cls, name: str, error: GpuQueueError, where: str = "") -> Check:
        """Turn a gpuqueue error into a failed check: ``where`` precedes its problem."""
        problem, _, fix = str(error).rpartition("; ")
        return cls(name, Level.FAIL, where + (problem or fix), fix if problem else "")
