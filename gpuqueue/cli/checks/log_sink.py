"""The doctor's checks of the sink of whole logs."""

from __future__ import annotations

from collections.abc import Iterator

from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.cli.view.state import State
from gpuqueue.errors import GpuQueueError
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.store.whole_logs import WholeLogNotes
from gpuqueue.whole_logs.sink import check, open_sink

NAME = "log sink"
#: Seconds after which a log that is not written is told.
LATE = 60.0


def writes(settings: Settings) -> Iterator[Check]:
    """Check that this user can write, read and remove an object."""
    if settings.sink is None:
        return
    try:
        check(open_sink(settings.sink))
    except GpuQueueError as exc:
        yield Check.failed(NAME, exc)
    else:
        yield Check(NAME, Level.OK, f"{settings.sink}: written and read")


def logs(state: State) -> Iterator[Check]:
    """Check that no log waits for long, and that none is missing."""
    notes, classes = WholeLogNotes(state.client), list(state.reader.classes())
    now = state.now()
    late = [each for each in notes.all_due(classes).values() if now - each.at >= LATE]
    if late:
        oldest = min(late, key=lambda each: each.at)
        errors = [each.error for each in late if each.error]
        yield Check(
            "whole logs",
            Level.WARN,
            f"{len(late)} not written yet, the oldest for {now - oldest.at:.0f} s"
            + (f": {errors[0]}" if errors else ""),
            "check the log sink, and that the dispatchers that ran these attempts are running",
        )
    if missing := notes.all_missing(classes):
        names = ", ".join(each.holder for each in missing[:3])
        yield Check(
            "whole logs",
            Level.WARN,
            f"{len(missing)} missing, such as {names}",
            f"`gpuqueue logs {missing[0].delivery} --whole` tells why",
        )
