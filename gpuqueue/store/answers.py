"""What the verbs of dispatchers return."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record

#: How many jobs one decision looks at, so that a script stays short: about 3 ms. A job with a large
#: record counts as several.
BATCH = 32


#: The state that a release answers for a job that must move to another class.
MOVING = "moving"


class Granted(list[Record]):
    """The attempts to launch now. ``more``: the decision used up its budget, and another may start
    more.
    """

    def __init__(self, answer: Sequence[Any] = (0,)) -> None:
        super().__init__(json.loads(each) for each in answer[1:])
        self.more = bool(answer[0])


@dataclass(frozen=True, slots=True)
class Released:
    """The result of a release: whether it freed the slot, the state of the job after it (or
    ``MOVING``), whose slot it was, why the job is tried again, and the attempts to launch now.

    ``attempt`` is the last one of an instance that ran several.
    """

    freed: bool
    state: str
    attempt: Attempt
    error: str = ""
    granted: Granted = field(default_factory=Granted)


@dataclass(frozen=True, slots=True)
class TakenIn:
    """The result of taking a delivery in: what became of it (see accept.lua); whether its job is
    due sooner than what the watcher waits for; the attempts to launch now; and what its task has
    used of GPU memory, and in how many jobs, if that is to be told.
    """

    outcome: str
    sooner: bool
    granted: Granted
    memory: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The result of a cancellation in one class: the answer of cancel.lua, and the newest delivery
    of the job.
    """

    outcome: str
    delivery: str
