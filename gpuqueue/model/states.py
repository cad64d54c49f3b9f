"""The states of a job, and which may follow which.

``JobState`` is what the store keeps. Celery's result backend shows ``QUEUED`` and ``DISPATCHED``
beside Celery's own STARTED, RETRY, SUCCESS, FAILURE and REVOKED.
"""

from __future__ import annotations

from enum import StrEnum

QUEUED = "QUEUED"
DISPATCHED = "DISPATCHED"


class JobState(StrEnum):
    """Where a job stands."""

    ACCEPTED = "accepted"
    """Written to Redis; not in line yet."""
    DELAYED = "delayed"
    """Before its eta, or in the pause before its next attempt."""
    WAITING = "waiting"
    """In line for a slot."""
    LAUNCHING = "launching"
    """Holds a slot; its executor has not claimed it yet."""
    RUNNING = "running"
    """Claimed by its executor."""
    REPORTING = "reporting"
    """The executor has claimed the finish and is writing the result."""
    FINISHING = "finishing"
    """Another process than the executor must write the result: the job was cancelled, expired or
    refused, or its executor died without a report.
    """
    ENDED = "ended"
    """The result is written. A tombstone stays until no other copy of the message can come."""


#: Every legal move. The scripts make no other; docs/reference/states.md is generated from these.
MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.ACCEPTED: frozenset({JobState.DELAYED, JobState.WAITING, JobState.FINISHING}),
    JobState.DELAYED: frozenset({JobState.WAITING, JobState.FINISHING}),
    JobState.WAITING: frozenset({JobState.LAUNCHING, JobState.DELAYED, JobState.FINISHING}),
    JobState.LAUNCHING: frozenset(
        {JobState.RUNNING, JobState.WAITING, JobState.DELAYED, JobState.FINISHING}
    ),
    JobState.RUNNING: frozenset({JobState.REPORTING, JobState.DELAYED, JobState.FINISHING}),
    JobState.REPORTING: frozenset({JobState.DELAYED, JobState.ENDED, JobState.FINISHING}),
    JobState.FINISHING: frozenset({JobState.ENDED}),
    JobState.ENDED: frozenset(),
}

#: States in which a job holds no slot yet.
BEFORE_SLOT = frozenset({JobState.ACCEPTED, JobState.DELAYED, JobState.WAITING})
