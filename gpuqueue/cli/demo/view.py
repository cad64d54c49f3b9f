"""The live view of the demo: a table on a terminal, otherwise one line per change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.record import Record
from gpuqueue.model.states import JobState
from gpuqueue.store.reader import Reader

_STYLES = {
    JobState.RUNNING: "bold green",
    JobState.REPORTING: "green",
    JobState.LAUNCHING: "cyan",
    JobState.WAITING: "yellow",
}
_ORDER = (
    JobState.REPORTING,
    JobState.RUNNING,
    JobState.LAUNCHING,
    JobState.WAITING,
    JobState.DELAYED,
    JobState.ACCEPTED,
)
#: A job that no dispatcher has taken: its message is in the broker, or its chord has not sent it.
SENT = "not accepted yet"


@dataclass(frozen=True, slots=True)
class Look:
    """All jobs at one moment, by label: records, wait reasons with places, progress."""

    now: float
    records: Mapping[str, Record]
    reasons: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    progress: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def in_state(self, label: str, *states: JobState) -> bool:
        """Whether a job is in one of these states."""
        return label in self.records and self.records[label]["state"] in states


def look(reader: Reader, gpu_class: GpuClass, jobs: Mapping[str, Any], now: float) -> Look:
    """Read the jobs (label → AsyncResult)."""
    found = {
        record["delivery"]: record
        for record in reader.records(gpu_class.name, [job.id for job in jobs.values()])
    }
    records = {label: found[job.id] for label, job in jobs.items() if job.id in found}
    reasons: dict[str, tuple[str, int]] = {}
    progress: dict[str, Mapping[str, Any]] = {}
    for label, record in records.items():
        if record["state"] in (JobState.WAITING, JobState.DELAYED, JobState.LAUNCHING):
            why = reader.why(gpu_class, record["delivery"], 0)
            if why and why.reason:
                reasons[label] = why.reason, why.place
        elif record["state"] == JobState.RUNNING:
            info = jobs[label].info
            if isinstance(info, Mapping) and "done" in info:
                progress[label] = info
    return Look(now, records, reasons, progress)


class View:
    """Shows one look after another; a context manager."""

    def __init__(self, console: Console, begin: float) -> None:
        self._console = console
        self._begin = begin
        self._known: dict[str, str] = {}
        self._live = (
            Live(console=console, auto_refresh=False, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str, now: float) -> None:
        """Print an action of the demo."""
        self._console.print(Text(f"{now - self._begin:5.1f} s  {text}", style="bold"))

    def show(self, jobs: Mapping[str, Any], seen: Look) -> None:
        """Show the jobs as read."""
        if self._live:
            self._live.update(_table(jobs, seen, self._begin), refresh=True)
            return
        changes: dict[str, list[str]] = {}
        for label in jobs:
            what = _what(label, seen)
            if self._known.get(label) != what:
                self._known[label] = what
                changes.setdefault(what, []).append(label)
        for what, labels in changes.items():
            # One line each, however narrow the terminal.
            line = f"{seen.now - self._begin:5.1f} s  {what:<32} {', '.join(labels)}"
            self._console.print(Text(line), soft_wrap=True)


def _what(label: str, seen: Look) -> str:
    record = seen.records.get(label)
    if record is None:
        return SENT
    if record["state"] == JobState.ENDED:
        return f"ended: {record.get('reason', '')}"
    reason = seen.reasons.get(label)
    return f"{record['state']}: {reason[0]}" if reason else str(record["state"])


def _table(jobs: Mapping[str, Any], seen: Look, begin: float) -> Table:
    ended = sum(seen.in_state(label, JobState.ENDED) for label in jobs)
    table = Table(
        title=f"{seen.now - begin:.0f} s · {ended} of {len(jobs)} jobs ended", title_justify="left"
    )
    table.add_column("job", no_wrap=True)
    table.add_column("isolation")
    table.add_column("state")
    table.add_column("for", justify="right")
    table.add_column("why it waits · progress")
    for label in sorted(jobs, key=lambda each: _rank(each, seen)):
        record = seen.records.get(label)
        state = record["state"] if record else SENT
        since = _since(record, seen.now)
        style = _STYLES.get(JobState(state), "dim") if record else "dim"
        isolation = record["isolation"] if record else ""
        table.add_row(label, isolation, state, since, _note(label, seen), style=style)
    return table


def _rank(label: str, seen: Look) -> tuple[int, int]:
    record = seen.records.get(label)
    state = record["state"] if record else ""
    return (
        _ORDER.index(JobState(state)) if state in _ORDER else len(_ORDER),
        seen.reasons.get(label, ("", 0))[1],
    )


def _since(record: Record | None, now: float) -> str:
    if record is None or record["state"] == JobState.ENDED:
        return ""
    return f"{max(0.0, now - (record.get('admitted') or record['created'])):.0f} s"


def _note(label: str, seen: Look) -> str:
    if label in seen.reasons:
        reason, place = seen.reasons[label]
        return f"{reason} · place {place}" if place else reason
    if label in seen.progress:
        at = seen.progress[label]
        return f"{at['done']} of {at['of']} · accuracy {at['accuracy']:.3f}"
    record = seen.records.get(label)
    return record.get("reason", "") if record else ""
