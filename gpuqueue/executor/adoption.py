"""Report an outcome to a Redis that has lost the job: a leader adopts the attempt while its process
runs, so it waits for that.
"""

from __future__ import annotations

import logging
import time

from gpuqueue.model.reasons import EndReason
from gpuqueue.nvidia.sampler import Sample
from gpuqueue.store.attempts import ExecutorAttempt, UnknownJob

logger = logging.getLogger("gpuqueue.executor")
#: Seconds that the adoption may take: far above GPUQUEUE_RELIST_SECONDS and GPUQUEUE_REPAIR_SECONDS
#: with a failover of the leader.
ADOPTION = 60.0
#: Seconds between two reports.
PAUSE = 0.5


def report(
    executor: ExecutorAttempt,
    outcome: EndReason,
    sample: Sample,
    error: str | None = None,
    *,
    elsewhere: bool = False,
) -> None:
    """Report an outcome, once Redis knows the job. For ``error`` and ``elsewhere`` see the verb.

    Raises:
        StaleAttempt: this attempt may write nothing; UnknownJob: no leader has adopted it in time.
    """
    began = time.monotonic()
    told = False
    while True:
        try:
            executor.report(outcome, sample, error, elsewhere=elsewhere)
            return
        except UnknownJob as exc:
            if time.monotonic() - began >= ADOPTION:
                raise
            if not told:
                told = True
                logger.warning("%s; waiting for a leader to adopt it", exc)
            time.sleep(PAUSE)
