"""The promises of the demo, each checked from evidence. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record

#: The least accuracy of a trained network. Guessing gets one digit in ten right.
LEAST_ACCURACY = 0.85


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence of one run, by the labels of its jobs; times are Unix seconds.

    ``answers`` holds what ``get()`` returned or raised, ``records`` the records of the store,
    ``states`` the states in Celery.
    """

    records: Mapping[str, Record]
    states: Mapping[str, str]
    answers: Mapping[str, Any]
    slots: int
    seconds: float
    limit: float
    in_line: int
    holders: int
    grid: Sequence[str]
    best: str
    exclusive: Sequence[str]
    failing: str
    stopped: str
    withdrawn: str
    stopped_at: Mapping[str, Any] = field(default_factory=dict)
    """The last progress that the stopped job reported."""
    process_gone: bool = False
    """Whether the process of the stopped job is gone."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise: its text, whether it held, and the evidence."""

    promise: str
    held: bool
    shown: str


def check(seen: Evidence) -> list[Verdict]:
    """Return every promise with its verdict."""
    return [
        _grid(seen),
        _best(seen),
        _exclusive_ran(seen),
        _not_starved(seen),
        _alone(seen),
        _slots(seen),
        _failure(seen),
        _stopped(seen),
        _withdrawn(seen),
        Verdict(
            "nothing is left over: no waiting job, no slot in use",
            seen.in_line == seen.holders == 0,
            f"in line {seen.in_line}, slots held {seen.holders}",
        ),
        Verdict(
            f"all within {seen.limit:.0f} s", seen.seconds <= seen.limit, f"{seen.seconds:.1f} s"
        ),
    ]


def held(record: Record | None) -> tuple[float, float] | None:
    """Return the time span in which a job held its slot, without an end if it still does; None if
    it never did.
    """
    if not record or "admitted" not in record:
        return None
    return record["admitted"], record.get("released", float("inf"))


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """Return the largest number of overlapping spans. Spans that only touch do not overlap."""
    events = sorted((time, step) for begin, end in spans for time, step in ((begin, 1), (end, -1)))
    now = most = 0
    for _, step in events:
        now += step
        most = max(most, now)
    return most


def _grid(seen: Evidence) -> Verdict:
    found = {
        label: _accuracy(seen.answers.get(label))
        for label in seen.grid
        if seen.states.get(label) == "SUCCESS"
    }
    held_all = len(found) == len(seen.grid) > 0 and min(found.values()) > LEAST_ACCURACY
    shown = f"{len(found)} of {len(seen.grid)} succeeded"
    if found:
        shown += f", accuracy {min(found.values()):.3f} to {max(found.values()):.3f}"
    return Verdict(
        f"every training of the grid succeeded, with accuracy above {LEAST_ACCURACY}",
        held_all,
        shown,
    )


def _best(seen: Evidence) -> Verdict:
    answer = seen.answers.get(seen.best)
    points = [seen.answers.get(label) for label in seen.grid]
    highest = max((_accuracy(each) for each in points), default=0.0)
    right = (
        seen.states.get(seen.best) == "SUCCESS"
        and answer in points
        and _accuracy(answer) == highest > 0
    )
    return Verdict(
        "the chord's body picked the best of the grid",
        right,
        f"picked {_accuracy(answer):.4f}, highest is {highest:.4f}",
    )


def _exclusive_ran(seen: Evidence) -> Verdict:
    ran = [
        label
        for label in seen.exclusive
        if seen.states.get(label) == "SUCCESS" and held(seen.records.get(label))
    ]
    right = len(ran) == len(seen.exclusive) > 0
    return Verdict(
        "the exclusive jobs ran", right, f"{len(ran)} of {len(seen.exclusive)} succeeded"
    )


def _not_starved(seen: Evidence) -> Verdict:
    starts = [span[0] for label in seen.grid if (span := held(seen.records.get(label)))]
    first = min(
        (span[0] for label in seen.exclusive if (span := held(seen.records.get(label)))),
        default=float("inf"),
    )
    later = sum(start > first for start in starts)
    return Verdict(
        "an exclusive job got its turn in the middle of the grid",
        0 < later < len(starts),
        f"{len(starts) - later} trainings began before it, {later} after it",
    )


def _alone(seen: Evidence) -> Verdict:
    spans = {
        label: (span, record["isolation"])
        for label, record in seen.records.items()
        if (span := held(record))
    }
    clashes = [
        f"{label} beside {other}"
        for label, (span, isolation) in spans.items()
        for other, (beside, _) in spans.items()
        if isolation == EXCLUSIVE and other != label and span[0] < beside[1] and beside[0] < span[1]
    ]
    count = sum(isolation == EXCLUSIVE for _, isolation in spans.values())
    shown = (
        "; ".join(clashes) or f"{count} exclusive holders, {len(spans) - count} others, no overlap"
    )
    return Verdict(
        "no other job held the GPU while an exclusive job did", not clashes and count > 0, shown
    )


def _slots(seen: Evidence) -> Verdict:
    most = most_at_once(
        span
        for each in seen.records.values()
        if each["isolation"] == SHARED and (span := held(each))
    )
    promise = f"shared jobs ran side by side, {seen.slots} at most"
    return Verdict(promise, 2 <= most <= seen.slots, f"{most} at once at most")


def _failure(seen: Evidence) -> Verdict:
    answer, record = seen.answers.get(seen.failing), seen.records.get(seen.failing, {})
    # scikit-learn raises ValueError, PyTorch RuntimeError, gpuqueue neither of them.
    right = seen.states.get(seen.failing) == "FAILURE" and type(answer) in (
        ValueError,
        RuntimeError,
    )
    shown = (
        f"{type(answer).__name__}: {answer}"
        if isinstance(answer, Exception)
        else f"get() returned {answer!r}"
    )
    promise = "get() raised the exception of the failing job"
    return Verdict(
        promise, right and record.get("reason") == EndReason.ERROR, " ".join(shown.split())
    )


def _stopped(seen: Evidence) -> Verdict:
    record = seen.records.get(seen.stopped, {})
    done, of = seen.stopped_at.get("done", 0), seen.stopped_at.get("of", 0)
    right = (
        seen.states.get(seen.stopped) == "REVOKED" and record.get("reason") == EndReason.CANCELLED
    )
    right = right and "released" in record and seen.process_gone and 0 < done < of
    gone = "its process is gone" if seen.process_gone else "its process was not seen to end"
    return Verdict(
        "the job cancelled while it ran is REVOKED and was stopped",
        right,
        f"last seen at epoch {done} of {of}; {gone}",
    )


def _withdrawn(seen: Evidence) -> Verdict:
    record = seen.records.get(seen.withdrawn, {})
    state = seen.states.get(seen.withdrawn, "unknown")
    right = (
        state == "REVOKED" and record.get("reason") == EndReason.CANCELLED and held(record) is None
    )
    shown = f"{state}, " + (
        "it never held a slot" if held(record) is None else "but it held a slot"
    )
    return Verdict("the job cancelled while it waited is REVOKED and never started", right, shown)


def _accuracy(answer: Any) -> float:
    found = answer.get("accuracy") if isinstance(answer, Mapping) else None
    return found if isinstance(found, float) else 0.0
