"""The GPU memory that the jobs of a task have used, and whether one asks for far more, or for less.
It changes nothing of what a job gets. Pure: no I/O, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: What lua/lib/task_memory.lua keeps and tells: the peaks of so many jobs of a task; so many tasks
#: of a class; a task for so many seconds since its last job. From so many jobs on, a job asks for
#: far more if that is above so many times the most that they used.
MEASURED = {"runs": 50, "tasks": 500, "seconds": 90 * 86_400, "enough": 5, "far": 2}


@dataclass(frozen=True, slots=True)
class TaskMemory:
    """What the last jobs of one task and tenant have used. Amounts are bytes, ``at`` Unix seconds.
    ``asks``: how much the last one asked for; None: it did not say.
    """

    task: str
    tenant: str
    peaks: tuple[int, ...]
    asks: int | None
    at: float

    @classmethod
    def parse(cls, name: Any, kept: Any) -> TaskMemory | None:
        """Return an entry as the scripts keep it; None: it is damaged."""
        try:
            tenant, task = name
            peaks = tuple(int(each) for each in kept["peaks"])
            asks, at = kept.get("asks"), float(kept["at"])
            amount = None if asks is None else int(asks)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            return None
        if not peaks or not isinstance(task, str) or not isinstance(tenant, str):
            return None
        return cls(task, tenant, peaks, amount, at)

    @property
    def most(self) -> int:
        """The most that one job has used."""
        return max(self.peaks)

    @property
    def usual(self) -> int:
        """What 95 of 100 jobs did not exceed."""
        return sorted(self.peaks)[math.ceil(0.95 * len(self.peaks)) - 1]

    def verdict(self) -> str:
        """Return whether the last job asked for far ``more``, or for ``less``, than they used;
        empty: neither. The scripts decide by the same rule.
        """
        if self.asks is None:
            return ""
        if self.asks > MEASURED["far"] * self.most and len(self.peaks) >= MEASURED["enough"]:
            return "more"
        return "less" if self.asks < self.most else ""

    def words(self) -> str:
        """Return it as a sentence."""
        whose = f"task {self.task!r}" + (f" of tenant {self.tenant!r}" if self.tenant else "")
        return f"{whose} {asked_and_used(self.asks or 0, self.most, len(self.peaks))}"

    def public(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "task": self.task,
            "tenant": self.tenant or None,
            "asks": self.asks,
            "most": self.most,
            "usual": self.usual,
            "runs": len(self.peaks),
            "verdict": self.verdict() or None,
        }


def asked_and_used(asks: int, most: int, runs: int) -> str:
    """Return what a task asks for and has used, for people."""
    times = "run" if runs == 1 else "runs"
    return f"asks for {_gib(asks)} of GPU memory and used at most {_gib(most)} in {runs} {times}"


def merged(found: Iterable[TaskMemory]) -> list[TaskMemory]:
    """Merge what several classes know of the same tasks; the last one says what is asked for."""
    tasks: dict[tuple[str, str], list[TaskMemory]] = {}
    for each in found:
        tasks.setdefault((each.tenant, each.task), []).append(each)
    return [_merge(known) for _, known in sorted(tasks.items())]


def _merge(known: list[TaskMemory]) -> TaskMemory:
    last = max(known, key=lambda each: each.at)
    peaks = tuple(peak for each in known for peak in each.peaks)
    return TaskMemory(last.task, last.tenant, peaks, last.asks, last.at)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}GiB"
