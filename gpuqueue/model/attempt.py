"""An attempt at a delivery, what runs it, and what a launcher observes of it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Self

from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.reasons import WaitReason
from gpuqueue.model.record import Record

#: The name of a holder: a delivery and the number of an attempt.
_HOLDER = re.compile(r"(.+)#([0-9]{1,15})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a delivery. ``number`` counts from 1.

    Two attempts are equal if they have the same slot. A number is given twice if Redis comes back
    with an older state; then only ``token`` tells them apart. It is empty if it is not known.
    """

    gpu_class: str
    delivery: str
    number: int
    token: str = field(default="", compare=False, repr=False)

    @classmethod
    def of(cls, record: Record) -> Self:
        """Return the latest attempt of a record. Raises KeyError if it has none."""
        return cls(
            record["gpu_class"], record["delivery"], record["attempt"], record.get("token", "")
        )

    @classmethod
    def parse(cls, gpu_class: str, holder: str) -> Self | None:
        """Parse the name that :attr:`holder` makes. Returns None for any other text."""
        found = _HOLDER.fullmatch(holder)
        return cls(gpu_class, found[1], int(found[2])) if found else None

    @property
    def holder(self) -> str:
        """The name under which Redis keeps its slot: unique within its class."""
        return f"{self.delivery}#{self.number}"

    def worker(self, host: str) -> str:
        """Return the name of its one-shot Celery worker: what its task has as ``request.hostname``.
        To monitors its class is the worker (see :func:`gpuqueue.model.names.worker_name`).
        """
        return f"{self.gpu_class}-{self.delivery}-{self.number}@{host}"


def is_same_instance(one: str, other: str) -> bool:
    """Whether two names are of the same process or Job; a Job is also named without its pod."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """An attempt and what runs it.

    ``instance`` names a process, or a Job and its pod. It is empty if no instance was observed.
    """

    attempt: Attempt
    instance: str


@dataclass(frozen=True, slots=True)
class LiveAttempt:
    """An attempt that a launcher finds running, with the record that its environment or annotation
    carries. The record suffices to adopt the attempt after a loss of Redis data.
    """

    running: RunningAttempt
    record: Record

    @classmethod
    def of(cls, record: Record, instance: str) -> Self:
        """Return the record's attempt, run by an instance."""
        return cls(RunningAttempt(Attempt.of(record), instance), record)

    @property
    def is_container(self) -> bool:
        """Whether it runs a container job, which no executor claims."""
        return self.record.get("task") == CONTAINER_TASK


@dataclass(frozen=True, slots=True)
class Observation:
    """What an attempt waits for before it runs or ends.

    ``claim_within`` is the time in seconds, from now, that its executor has to claim the attempt,
    ``launch_in`` the time until its launch is tried again.
    """

    attempt: Attempt
    wait: WaitReason | None = None
    detail: str = ""
    pod: str = ""
    node: str = ""
    claim_within: float | None = None
    launch_in: float | None = None
