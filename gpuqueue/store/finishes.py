"""What an executor does to the state that finishes a job in place of the one that failed to. Needs
only redis.
"""

from __future__ import annotations

import json
from typing import Any

import redis

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record
from gpuqueue.model.text import fitting
from gpuqueue.store import scripts

#: Seconds for which a finish that fails by errors that pass uses up no try. An application can
#: raise such errors for another server than Redis, and for good.
FREE_FOR = 3600.0
#: How many characters of the error of a finish the record keeps.
LONGEST_CAUSE = 500


def failure(error: str, passing: bool) -> dict[str, Any]:
    """Return what ``finish_failed`` needs of a failed finish."""
    text = fitting(error, LONGEST_CAUSE) or "unknown"
    return {"error": text, "passing": passing, "free_for": FREE_FOR}


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
        scripts.read_files("finish_claim", "finish_failed", "finished")
        self._scripts = scripts.Scripts(client)
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

    def failed(self, error: str, *, passing: bool) -> None:
        """Record that this try has failed, so that another follows."""
        self._call("finish_failed", **failure(error, passing))

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
