"""What an executor does to the state: claim its attempt, then claim and confirm its end. Needs only
redis.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from gpuqueue.errors import StaleAttempt
from gpuqueue.model.job import Record
from gpuqueue.store.scripts import Scripts

#: Seconds an executor may take to write what it has claimed. 900: above its patience with a backend
#: that is away (10 min).
REPORT_TIMEOUT = 900.0
#: Seconds after which a process that has reported and does not end is stopped: a thread that its
#: task left behind.
EXIT_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """Which attempt a process is: told to it by its environment."""

    gpu_class: str
    delivery: str
    number: int
    token: str


class Attempts:
    """The verbs of an executor."""

    def __init__(self, client: redis.Redis, clock: Callable[[], float] = time.time) -> None:
        self._scripts = Scripts(client)
        self._clock = clock

    def claim(self, attempt: Attempt, instance: str, worker: str) -> tuple[Record, dict[str, Any]]:
        """Take the attempt for this process. Raises :class:`StaleAttempt` when it is another's, or
        no longer wanted.
        """
        answer = self._call("claim", attempt, instance=instance, worker=worker, now=self._clock())
        if answer[0] != "ok":
            raise StaleAttempt(f"{attempt.delivery} attempt {attempt.number}: {answer[1]}")
        return json.loads(answer[1]), json.loads(answer[2])

    def limit(self, attempt: Attempt, seconds: float) -> bool:
        """Set the hard limit, in seconds from the start, when the task itself declares one."""
        return bool(self._call("limit", attempt, seconds=seconds))

    def sampled(self, attempt: Attempt, seen: Mapping[str, Any]) -> bool:
        """Keep what was seen of the GPU (gpu_sampler.py has the fields); False: the attempt is not
        current.
        """
        return bool(self._call("sampled", attempt, sample=seen or None))

    def report(self, attempt: Attempt, outcome: str, seen: Mapping[str, Any] | None = None) -> None:
        """Claim the finish, and tell what was seen of the GPU.

        Raises :class:`StaleAttempt` when this attempt may write nothing any more.
        """
        answer = self._call(
            "report",
            attempt,
            outcome=outcome,
            deadline=self._clock() + REPORT_TIMEOUT,
            sample=seen or None,
        )
        if answer != "ok":
            raise StaleAttempt(f"{attempt.delivery} attempt {attempt.number}: {answer}")

    def reported(self, attempt: Attempt, keep: float) -> bool:
        """Confirm that everything is written; the tombstone stays for ``keep`` seconds."""
        now = self._clock()
        return bool(
            self._call("reported", attempt, now=now, keep=keep, deadline=now + EXIT_TIMEOUT)
        )

    def _call(self, verb: str, attempt: Attempt, **context: object) -> Any:
        return self._scripts.call(
            verb,
            attempt.gpu_class,
            delivery=attempt.delivery,
            attempt=attempt.number,
            token=attempt.token,
            **context,
        )


class Finishes:
    """The verbs of an executor that finishes a job for one that could not."""

    def __init__(
        self, client: redis.Redis, clock: Callable[[], float] = time.time, lease: float = 180.0
    ) -> None:
        self._scripts = Scripts(client)
        self._clock = clock
        self._lease = lease

    def claim(
        self, attempt: Attempt, finisher: str, keep: float
    ) -> tuple[Record, dict[str, Any] | None] | None:
        """Take the finish that a dispatcher claimed for this process; None when it is no longer
        wanted.
        """
        answer = self._scripts.call(
            "finish_claim",
            attempt.gpu_class,
            delivery=attempt.delivery,
            finisher=finisher,
            now=self._clock(),
            lease=self._lease,
            keep=keep,
        )
        if answer[0] != "ok":
            return None
        return json.loads(answer[1]), json.loads(answer[2]) if answer[2] else None

    def finished(self, attempt: Attempt, finisher: str, reason: str, keep: float) -> bool:
        """Confirm that everything is written."""
        return bool(
            self._scripts.call(
                "finished",
                attempt.gpu_class,
                delivery=attempt.delivery,
                finisher=finisher,
                reason=reason,
                now=self._clock(),
                keep=keep,
            )
        )
