"""The doctor's check of the GPU memory that tasks ask for, beside what they have used."""

from __future__ import annotations

from collections.abc import Iterator

from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.cli.view.state import State
from gpuqueue.store.task_memory import used

#: How many tasks it names, the worst first.
MOST = 5
_FIXES = {
    "more": "ask for less: gpu(memory=...); a smaller class may start it sooner",
    "less": "ask for more: gpu(memory=...), or it may run out of GPU memory",
}


def memory(state: State) -> Iterator[Check]:
    """Name tasks that ask for far more GPU memory than they have used, or for less."""
    known = used(state.client, state.reader.classes(), state.now())
    found = [each for each in known if each.verdict()]
    # What may run out of memory comes first, then what wastes the most.
    found.sort(key=lambda each: (each.verdict(), -abs(each.most - (each.asks or 0))))
    for each in found[:MOST]:
        yield Check("memory", Level.WARN, each.words(), _FIXES[each.verdict()])
    if len(found) > MOST:
        saw = f"{len(found) - MOST} more tasks ask for far more than they have used, or for less"
        yield Check("memory", Level.WARN, saw, "correct those above first")
