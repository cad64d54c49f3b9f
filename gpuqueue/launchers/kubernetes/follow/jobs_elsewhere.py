"""Jobs in namespaces of before: a queue whose Jobs go to another one by now follows its running
attempts to their end. They are read one by one, and seldom.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gpuqueue.launchers.base import LauncherUnavailable, Observations
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Forbidden
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.attempts import of_job
from gpuqueue.launchers.kubernetes.follow.closed_nodes import ClosedNodes
from gpuqueue.launchers.kubernetes.follow.jobs_without_pod import (
    READ_EVERY,
    attempt_of,
    end_of,
    read,
)
from gpuqueue.launchers.kubernetes.follow.pod_logs import PodLogs
from gpuqueue.launchers.kubernetes.follow.suspensions import Suspensions
from gpuqueue.launchers.kubernetes.manifest.names import Instance
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason

logger = logging.getLogger(__name__)


class JobsElsewhere:
    """Finds the end of attempts in namespaces that are not in use any more.

    Args:
        api: the cluster.
        observations: tell which attempts have begun, and record those that are held back.
        claim_within: seconds that an attempt has to be claimed once it is held back no longer.
        log_bytes: what is stored of each log.
    """

    def __init__(
        self,
        api: Requests,
        observations: Observations,
        claim_within: float,
        log_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._observations = observations
        self._claim_within = claim_within
        self._log_bytes = log_bytes
        self._clock = clock
        self._read: dict[tuple[str, str], tuple[float, End | None]] = {}
        self._told: set[str] = set()

    def end_of(self, instance: Instance) -> End | None:
        """Return how an attempt ended; None: it may still run, or may not be read here. Raises
        :class:`LauncherUnavailable`.
        """
        key, now = (instance.namespace, instance.job), self._clock()
        at, end = self._read.get(key, (float("-inf"), None))
        if end is not None or now - at < READ_EVERY:
            return end
        try:
            end = self._end_by_api(instance)
        except Forbidden as exc:
            self._tell(instance, exc)
        except ApiError as exc:
            raise LauncherUnavailable(str(exc)) from exc
        self._read[key] = now, end
        return end

    def _end_by_api(self, instance: Instance) -> End | None:
        api = self._api.within(instance.namespace)
        job, pods = read(api, instance.job)
        end = end_of(job, pods)
        live = of_job(job, instance.namespace) if job and not job.status.ended else None
        if job is not None and live is not None:
            held = Suspensions(api, self._observations, self._claim_within, lambda _: None)
            if not pods:
                return held.of_job(job, live)[1]
            if end is not None and end.reason is EndReason.POD_DELETED:
                end = held.end_of_pod(job, pods[0], live, end)
        if end is not None and end.reason is EndReason.POD_DELETED:
            end = ClosedNodes(api).end_of(job, pods[0], end)
        if end is not None:
            logs = PodLogs(api, self._observations, self._log_bytes)
            for entry, attempt in map(attempt_of, pods):
                if attempt is not None:
                    logs.keep(entry, attempt, within=0.0)
        return end

    def stop(self, instance: Instance) -> bool:
        """Delete a Job with its pod; return False if it is gone. Raises
        :class:`LauncherUnavailable`.
        """
        try:
            return self._api.within(instance.namespace).delete_job(instance.job)
        except Forbidden as exc:
            self._tell(instance, exc)
            return True
        except ApiError as exc:
            raise LauncherUnavailable(str(exc)) from exc

    def _tell(self, instance: Instance, exc: ApiError) -> None:
        if instance.namespace not in self._told:
            self._told.add(instance.namespace)
            logger.error(
                "attempts in namespace %s keep their slots: dispatchers may not read or delete"
                " their Jobs: %s; give the Role there, too, until they have ended",
                instance.namespace,
                exc,
                extra={"action": "elsewhere_forbidden"},
            )
