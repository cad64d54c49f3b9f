"""Reads the whole log of an attempt from the sink."""

from __future__ import annotations

from collections.abc import Iterator

from gpuqueue.cli.view.state import State
from gpuqueue.errors import GpuQueueError
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.log_sink import SETTING
from gpuqueue.model.record import Record
from gpuqueue.store.whole_logs import WholeLogNotes
from gpuqueue.whole_logs.sink import open_sink


class NoWholeLog(GpuQueueError):
    """The sink does not have the log of an attempt."""


def read(state: State, record: Record, number: int) -> tuple[str, Iterator[bytes]]:
    """Return the name of an attempt's log in the sink, and its parts.

    Raises :class:`NoWholeLog`, which says why; SettingsError if no sink is set; SinkError.
    """
    address = state.settings.sink
    if address is None:
        raise GpuQueueError(f"{SETTING} is not set; set it as for the dispatchers")
    attempt = Attempt(record["gpu_class"], record["delivery"], number)
    notes, end = WholeLogNotes(state.client), f"`gpuqueue logs {record['id']}` shows its end"
    found = notes.result(attempt)
    if found is not None and not found.missing:
        return f"{found.name}.log", open_sink(address).read(f"{found.name}.log")
    if found is not None:
        raise NoWholeLog(f"the log of attempt {number} is not in {address}: {found.missing}; {end}")
    if (due := notes.due_of(attempt)) is not None:
        why = f": {due.error}" if due.error else ""
        age = state.now() - due.at
        raise NoWholeLog(
            f"the log of attempt {number} is not in {address} yet, {age:.0f} s after its"
            f" end{why}; {end}"
        )
    raise NoWholeLog(
        f"the log of attempt {number} is not in {address}: it is written once the attempt has"
        f" ended, by dispatchers with {SETTING}; {end}"
    )
