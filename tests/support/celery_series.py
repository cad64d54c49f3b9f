"""Marks for tests that Celery 5.6 cannot pass: its own workers and senders behave otherwise.

``make test CELERY=5.6`` skips them; each has the reason.
"""

from __future__ import annotations

import celery
import pytest

_SERIES_5_6 = celery.VERSION < (5, 7)

needs_stored_arguments = pytest.mark.skipif(
    _SERIES_5_6,
    reason="Celery 5.6 calls an errback (task_id, key) with (request, exc, traceback), as it counts"
    " the stored argument",
)
needs_results_ignored_by_name = pytest.mark.skipif(
    _SERIES_5_6,
    reason="Celery 5.6 sends ignore_result=False with the name of a task: it asks for a result",
)
needs_failed_rejects = pytest.mark.skipif(
    _SERIES_5_6,
    reason="Celery 5.6 stores no result for Reject(requeue=False)",
)
needs_lost_retries = pytest.mark.skipif(
    _SERIES_5_6,
    reason="Celery 5.6 has no retry_on_worker_lost",
)
needs_late_revoked = pytest.mark.skipif(
    _SERIES_5_6,
    reason="every worker of Celery 5.6 writes REVOKED at the request, also for running tasks",
)
