"""What the demo promises, each promise checked from evidence. Pure: reads no clock, no Redis, no
process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record

#: Guessing reads one digit in ten; a network that has learned anything at all reads far more than
#: this share.
LEAST_ACCURACY = 0.85


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run left behind. Jobs go by their labels; times are Unix seconds.

    ``answers`` holds what ``get()`` returned or raised, ``records`` what the store kept, ``states``
    Celery's states.
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
    """Whether the stopped job's process, seen alive before, is no more."""


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: its text, whether it held, and what shows that."""

    promise: str
    held: bool
    shown: str


def check(seen: Evidence) -> list[Check]:
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
        Check(
            "nothing is left: no job in line, no slot held",
            seen.in_line == seen.holders == 0,
            f"in line {seen.in_line}, slots held {seen.holders}",
        ),
        Check(
            f"all within {seen.limit:.0f} s", seen.seconds <= seen.limit, f"{seen.seconds:.1f} s"
        ),
    ]


def held(record: Record | None) -> tuple[float, float] | None:
    """Return from when to when a job held its slot (for ever, if it still does); None if it never
    did.
    """
    if not record or "admitted" not in record:
        return None
    return record["admitted"], record.get("released", float("inf"))


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """Return how many of the spans overlapped at most. A span that begins as another ends does not
    overlap it.
    """
    events = sorted((time, step) for begin, end in spans for time, step in ((begin, 1), (end, -1)))
    now = most = 0
    for _, step in events:
        now += step
        most = max(most, now)
    return most


def _grid(seen: Evidence) -> Check:
    found = {
        label: _accuracy(seen.answers.get(label))
        for label in seen.grid
        if seen.states.get(label) == "SUCCESS"
    }
    held_all = len(found) == len(seen.grid) > 0 and min(found.values()) > LEAST_ACCURACY
    shown = f"{len(found)} of {len(seen.grid)} succeeded"
    if found:
        shown += f", accuracy {min(found.values()):.3f} to {max(found.values()):.3f}"
    return Check(
        f"every training of the grid succeeded, with accuracy above {LEAST_ACCURACY}",
        held_all,
        shown,
    )


def _best(seen: Evidence) -> Check:
    answer = seen.answers.get(seen.best)
    points = [seen.answers.get(label) for label in seen.grid]
    highest = max((_accuracy(each) for each in points), default=0.0)
    right = (
        seen.states.get(seen.best) == "SUCCESS"
        and answer in points
        and _accuracy(answer) == highest > 0
    )
    return Check(
        "the chord's body picked the best of the grid",
        right,
        f"picked {_accuracy(answer):.4f}, highest is {highest:.4f}",
    )


def _exclusive_ran(seen: Evidence) -> Check:
    ran = [
        label
        for label in seen.exclusive
        if seen.states.get(label) == "SUCCESS" and held(seen.records.get(label))
    ]
    right = len(ran) == len(seen.exclusive) > 0
    return Check("the exclusive jobs ran", right, f"{len(ran)} of {len(seen.exclusive)} succeeded")


def _not_starved(seen: Evidence) -> Check:
    starts = [span[0] for label in seen.grid if (span := held(seen.records.get(label)))]
    first = min(
        (span[0] for label in seen.exclusive if (span := held(seen.records.get(label)))),
        default=float("inf"),
    )
    later = sum(start > first for start in starts)
    return Check(
        "an exclusive job got its turn in the middle of the grid",
        0 < later < len(starts),
        f"{len(starts) - later} trainings began before it, {later} after it",
    )


def _alone(seen: Evidence) -> Check:
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
    return Check(
        "while an exclusive job held the GPU, nobody else did", not clashes and count > 0, shown
    )


def _slots(seen: Evidence) -> Check:
    most = most_at_once(
        span
        for each in seen.records.values()
        if each["isolation"] == SHARED and (span := held(each))
    )
    promise = f"shared jobs ran side by side, {seen.slots} at most"
    return Check(promise, 2 <= most <= seen.slots, f"{most} at once at most")


def _failure(seen: Evidence) -> Check:
    answer, record = seen.answers.get(seen.failing), seen.records.get(seen.failing, {})
    # ValueError by scikit-learn, RuntimeError by PyTorch; what gpuqueue itself raises is neither of
    # these exactly.
    right = seen.states.get(seen.failing) == "FAILURE" and type(answer) in (
        ValueError,
        RuntimeError,
    )
    shown = (
        f"{type(answer).__name__}: {answer}"
        if isinstance(answer, Exception)
        else f"get() returned {answer!r}"
    )
    promise = "the failing job's own exception came out of get()"
    return Check(
        promise, right and record.get("reason") == EndReason.ERROR, " ".join(shown.split())
    )


def _stopped(seen: Evidence) -> Check:
    record = seen.records.get(seen.stopped, {})
    done, of = seen.stopped_at.get("done", 0), seen.stopped_at.get("of", 0)
    right = (
        seen.states.get(seen.stopped) == "REVOKED" and record.get("reason") == EndReason.CANCELLED
    )
    right = right and "released" in record and seen.process_gone and 0 < done < of
    gone = "its process is gone" if seen.process_gone else "its process was not seen to end"
    return Check(
        "the job cancelled while it ran is REVOKED and was stopped",
        right,
        f"last seen at epoch {done} of {of}; {gone}",
    )


def _withdrawn(seen: Evidence) -> Check:
    record = seen.records.get(seen.withdrawn, {})
    state = seen.states.get(seen.withdrawn, "unknown")
    right = (
        state == "REVOKED" and record.get("reason") == EndReason.CANCELLED and held(record) is None
    )
    shown = f"{state}, " + (
        "it never held a slot" if held(record) is None else "but it held a slot"
    )
    return Check("the job cancelled while it waited is REVOKED and never started", right, shown)


def _accuracy(answer: Any) -> float:
    found = answer.get("accuracy") if isinstance(answer, Mapping) else None
    return found if isinstance(found, float) else 0.0
