"""What an executor does to the state: claim its attempt, then claim and confirm its end. Needs only
redis.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import redis

from gpuqueue.errors import StaleAttempt
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record
from gpuqueue.store.scripts import Scripts

#: Seconds an executor may take to write what it has claimed. 900: above its patience with a result
#: backend that is down (10 min).
REPORT_TIMEOUT = 900.0
#: Seconds until a process that has reported and does not end is stopped: its task left a thread
#: behind.
EXIT_TIMEOUT = 300.0


class ExecutorAttempt:
    """The verbs of an executor on its attempt. ``token`` proves that the attempt is its own."""

    def __init__(self, client: redis.Redis, attempt: Attempt, token: str) -> None:
        self._scripts = Scripts(client)
        self.token = token
        self.attempt = attempt

    def claim(self, instance: str, worker: str) -> tuple[Record, dict[str, Any]]:
        """Claim the attempt for this process; return its record and message.

        Raises :class:`StaleAttempt` if another process has it, or if it is no longer wanted.
        """
        answer = self._call("claim", instance=instance, worker=worker)
        if answer[0] != "ok":
            raise self._stale(answer[1])
        return json.loads(answer[1]), json.loads(answer[2])

    def limit(self, seconds: float) -> bool:
        """Set the hard limit, in seconds from the start, if the task itself declares one."""
        return bool(self._call("limit", seconds=seconds))

    def sampled(self, seen: Mapping[str, Any]) -> bool:
        """Keep a sample of the GPU (see sampler.py for the fields). Returns False if the attempt is
        not current.
        """
        return bool(self._call("sampled", sample=seen or None))

    def report(self, outcome: str, seen: Mapping[str, Any] | None = None) -> None:
        """Claim the finish, and keep the last sample of the GPU.

        Raises :class:`StaleAttempt` if this attempt may no longer write anything.
        """
        answer = self._call("report", outcome=outcome, within=REPORT_TIMEOUT, sample=seen or None)
        if answer != "ok":
            raise self._stale(answer)

    def reported(self, keep: float) -> bool:
        """Confirm that everything is written. The tombstone stays for ``keep`` seconds."""
        return bool(self._call("reported", keep=keep, within=EXIT_TIMEOUT))

    def _stale(self, why: str) -> StaleAttempt:
        return StaleAttempt(f"{self.attempt.delivery} attempt {self.attempt.number}: {why}")

    def _call(self, verb: str, **context: object) -> Any:
        return self._scripts.call(
            verb,
            self.attempt.gpu_class,
            delivery=self.attempt.delivery,
            attempt=self.attempt.number,
            token=self.token,
            **context,
        )


class ExecutorFinish:
    """The verbs of an executor that finishes a job in place of the one that failed to.

    ``finisher`` is the claim of the dispatcher that started it; ``keep`` is how long the tombstone
    stays, in seconds.
    """

    def __init__(
        self,
        client: redis.Redis,
        attempt: Attempt,
        finisher: str,
        keep: float,
        lease: float = 180.0,
    ) -> None:
        self._scripts = Scripts(client)
        self._attempt = attempt
        self._finisher = finisher
        self._keep = keep
        self._lease = lease

    def claim(self) -> tuple[Record, dict[str, Any] | None] | None:
        """Renew the claim for this process; return record and message, or None if the finish is no
        longer wanted.
        """
        answer = self._call("finish_claim", lease=self._lease, keep=self._keep)
        if answer[0] != "ok":
            return None
        return json.loads(answer[1]), json.loads(answer[2]) if answer[2] else None

    def finished(self, reason: str) -> bool:
        """Confirm that everything is written."""
        return bool(self._call("finished", reason=reason, keep=self._keep))

    def _call(self, verb: str, **context: object) -> Any:
        return self._scripts.call(
            verb,
            self._attempt.gpu_class,
            delivery=self._attempt.delivery,
            finisher=self._finisher,
            **context,
        )
