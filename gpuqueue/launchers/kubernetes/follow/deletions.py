"""Deletes the Job of an attempt that is over. What the API does not delete now is tried again."""

from __future__ import annotations

import logging

from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests

logger = logging.getLogger(__name__)


def delete_or_tell(api: Requests, job: str, whose: str) -> bool:
    """Delete a Job; return False, and log why, if the API does not. ``whose``: its attempt, for the
    log.
    """
    try:
        api.delete_job(job)
    except ApiError as exc:
        logger.warning(
            "%s: its Job is not deleted yet: %s", whose, exc, extra={"action": "delete_later"}
        )
        return False
    return True
