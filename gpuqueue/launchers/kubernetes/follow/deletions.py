"""Deletes the Jobs of attempts. One that the API refuses to delete, as a policy or a webhook may,
concerns no other: it rests, and is tried again.
"""

from __future__ import annotations

import logging
import threading
import time

from gpuqueue.launchers.base import StopRefused
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests

logger = logging.getLogger(__name__)
#: Seconds until the deletion of a Job is tried again that was refused.
RESTS = 10.0


class Deletions:
    """Deletes Jobs of one namespace. Thread-safe."""

    def __init__(self, api: Requests) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def rests(self, job: str) -> bool:
        """Whether the deletion of a Job was refused a while ago."""
        return time.monotonic() < self._until.get(job, float("-inf"))

    def check(self, job: str) -> None:
        """Raise :class:`StopRefused` while the deletion of a Job rests."""
        if self.rests(job):
            raise StopRefused(f"Job {job} may not be deleted for now")

    def delete(self, job: str, uid: str = "") -> bool:
        """Delete a Job (with ``uid``: only that one); return False if there was none.

        Raises :class:`StopRefused`, also while it rests, and ApiError if the API does not answer.
        """
        self.check(job)
        try:
            existed = self._api.delete_job(job, uid) if uid else self._api.delete_job(job)
        except ApiError as exc:
            if not exc.refused:
                raise
            self._refused(job, exc)
            raise StopRefused(str(exc)) from exc
        with self._lock:
            self._until.pop(job, None)
        return existed

    def delete_or_tell(self, job: str, whose: str) -> bool:
        """Delete a Job; return False, and log why, if the API does not. ``whose``: its attempt, for
        the log.
        """
        try:
            self.delete(job)
        except StopRefused:  # it is told
            return False
        except ApiError as exc:
            logger.warning(
                "%s: its Job is not deleted yet: %s", whose, exc, extra={"action": "delete_later"}
            )
            return False
        return True

    def _refused(self, job: str, exc: ApiError) -> None:
        logger.warning("%s; tried again in %.0f s", exc, RESTS, extra={"action": "delete_refused"})
        now = time.monotonic()
        with self._lock:
            self._until = {name: at for name, at in self._until.items() if at > now}
            self._until[job] = now + RESTS
