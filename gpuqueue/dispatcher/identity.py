"""Which attempt a record means, by token and instance. Pure: no I/O, no clock.

A number proves nothing. If Redis comes back with an older state (its last second is lost, or a
lagging replica is promoted), a number is given twice, and a process can be of an attempt that the
record does not have yet.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto

from gpuqueue.model.attempt import Attempt, LiveAttempt, RunningAttempt, is_same_instance
from gpuqueue.model.record import Record
from gpuqueue.model.states import BEFORE_SLOT, JobState

HOLDING = (JobState.LAUNCHING, JobState.RUNNING, JobState.REPORTING)
CLAIMED = (JobState.RUNNING, JobState.REPORTING)


class Standing(Enum):
    """How an attempt that runs stands to the record of its job."""

    CURRENT = auto()
    """The record means it."""
    UNKNOWN = auto()
    """There is no record: Redis has lost the job."""
    AHEAD = auto()
    """The job waits in an older state: Redis has lost the grant of this attempt."""
    SUCCESSOR = auto()
    """An earlier attempt holds the slot in an older state, and its process is not found."""
    STRAY = auto()
    """Another attempt has its number, or goes on in its place: it can never write anything."""
    OVER = auto()
    """The record says that it has ended. The record may be read a moment before its end."""


def standing(record: Record | None, live: LiveAttempt, tokens: Collection[str]) -> Standing:
    """Return how a live attempt stands to the record of its job.

    ``tokens`` are those of all live attempts.
    """
    if record is None:
        return Standing.UNKNOWN
    running, number = live.running, record.get("attempt", 0)
    token = record.get("token")
    if token and is_meant(record, running):
        return Standing.CURRENT
    if running.attempt.number > number:
        if record["state"] in BEFORE_SLOT:
            return Standing.AHEAD
        if record["state"] in HOLDING:
            return Standing.STRAY if token in tokens else Standing.SUCCESSOR
    elif running.attempt.number == number and token and token != running.attempt.token:
        return Standing.STRAY
    return Standing.OVER


def is_meant(record: Record, running: RunningAttempt) -> bool:
    """Whether a record's latest attempt is this one, with this process."""
    if record.get("attempt") != running.attempt.number:
        return False
    token, instance = record.get("token"), record.get("instance")
    if token and token != running.attempt.token:
        return False
    if not token or record["state"] in CLAIMED:  # before the claim, any process may make it
        return not instance or is_same_instance(instance, running.instance)
    return True


def of_record(record: Record | None, attempt: Attempt) -> Attempt:
    """Return the attempt of a slot with its token, if the record has it."""
    current = record is not None and record.get("attempt") == attempt.number
    return Attempt.of(record) if record is not None and current else attempt
