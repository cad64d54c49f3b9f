"""Jobs without a pod (yet, or any more): read one by one, and seldom, with their events."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from gpuqueue.launchers.base import LauncherUnavailable, Observations
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.objects import Job, seconds
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.attempts import of_job
from gpuqueue.launchers.kubernetes.follow.pod_table import JOB_NAME
from gpuqueue.launchers.kubernetes.manifest.names import instance_of
from gpuqueue.launchers.kubernetes.status.read_status import read_status
from gpuqueue.model.attempt import LiveAttempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.settings.kubernetes import ClusterSettings

logger = logging.getLogger(__name__)
#: Shortest time between two reads of a Job, in seconds. The Job controller creates a pod in
#: milliseconds, and retries after seconds.
READ_EVERY = 5.0
#: Largest number of ends in memory.
MOST_ENDS = 1000
#: Seconds after which a Job that no caller asks for is forgotten: its attempt has ended elsewhere.
FORGET = 60.0
#: The end of an attempt whose Job existed and is gone.
GONE = End(
    EndReason.INFRA,
    "its Job and its pod are gone, and its end is unknown (deleted by hand, or by a cleanup)",
)


class JobsWithoutPod:
    """Finds the end of attempts without a known pod."""

    def __init__(
        self,
        api: Requests,
        observations: Observations,
        settings: ClusterSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._observations = observations
        self._settings = settings
        self._clock = clock
        self._every = min(READ_EVERY, settings.quota_timeout / 4)
        self._lock = threading.Lock()
        self._read_at: dict[str, float] = {}  # the oldest first
        self._ended: dict[str, End] = {}

    def end_of(self, name: str) -> End | None:
        """Read a Job, unless it was read recently, and return its end. None: it may still run.

        The same end is returned until :meth:`pod_appeared`, since callers ask more than once.
        Raises :class:`LauncherUnavailable`.
        """
        if name in self._ended:
            return self._ended[name]
        now = self._clock()
        read_at = self._read_at.get(name)
        if read_at is not None and now - read_at < self._every:
            return None
        self._note(name, now)
        if read_at is None:  # the watch mostly reports a new pod earlier
            return None
        try:
            end = self._read(name)
        except ApiError as exc:
            raise LauncherUnavailable(str(exc)) from exc
        if end is not None:
            if len(self._ended) >= MOST_ENDS:
                del self._ended[next(iter(self._ended))]
            self._ended[name] = end
            self._read_at.pop(name, None)
        return end

    def _note(self, name: str, at: float) -> None:
        """Note when a Job was read, and forget those that no caller asks for any more."""
        with self._lock:
            self._read_at.pop(name, None)
            self._read_at[name] = at
            while (oldest := next(iter(self._read_at))) and self._read_at[oldest] < at - FORGET:
                del self._read_at[oldest]

    def pod_appeared(self, name: str) -> None:
        """Forget a Job: the watch has reported a pod of it."""
        with self._lock:
            self._read_at.pop(name, None)
        self._ended.pop(name, None)

    def _read(self, name: str) -> End | None:
        job = self._api.get_job(name)
        pods, _ = self._api.list_pods(f"{JOB_NAME}={name}")
        if pods:  # the watch will report it, or changed labels hide it from the watch
            ends = [read_status(pod).end for pod in pods]
            return ends[0] if all(ends) else None
        if job is None:
            return GONE
        if any(
            each.type in ("Complete", "Failed") and each.status == "True"
            for each in job.status.conditions or ()
        ):
            return End(
                EndReason.INFRA,
                f"its pod is gone, and its end is unknown; the Job reports: {_conditions(job)}",
            )
        if job.metadata.deletion_timestamp is None:
            self._wait(name, job)
        return None

    def _wait(self, name: str, job: Job) -> None:
        """Record why the Job has no pod, and give it up after its limit."""
        live = of_job(job, self._api.namespace)
        if live is None:
            return
        reason, detail, wait, limit = self._why(name)
        self._observations.observed([Observation(live.running.attempt, wait, detail)])
        created = seconds(job.metadata.creation_timestamp)
        if created is not None and self._observations.now() - created >= limit:
            self._give_up(name, live, reason, f"it had no pod within {limit:g} s: {detail}")

    def _give_up(self, name: str, live: LiveAttempt, reason: EndReason, error: str) -> None:
        attempt = live.running.attempt
        if self._observations.give_up(attempt, reason, error):
            logger.warning(
                "%s: given up: %s", attempt.delivery, error, extra={"action": "given_up"}
            )
            self._api.delete_job(name)
            with self._lock:
                # The next call reads it: it is gone by then.
                self._read_at[name] = self._clock() - self._every

    def _why(self, name: str) -> tuple[EndReason, str, WaitReason, float]:
        rejections = [each for each in self._api.job_events(name) if each.reason == "FailedCreate"]
        if not rejections:
            limit = self._settings.launch_timeout
            return (
                EndReason.INFRA,
                "Kubernetes has not created its pod yet",
                WaitReason.STARTING,
                limit,
            )
        message = max(rejections, key=lambda each: each.last_seen or 0.0).message or ""
        if "exceeded quota" in message:
            return EndReason.QUOTA, message, WaitReason.QUOTA, self._settings.quota_timeout
        # Pod Security, a webhook, a missing ServiceAccount or PriorityClass: only the operator can
        # fix it.
        return EndReason.BAD_SPEC, message, WaitReason.LAUNCH_REFUSED, self._settings.quota_timeout


def _conditions(job: Job) -> str:
    texts = [
        f"{each.reason}: {each.message}"
        for each in job.status.conditions or ()
        if each.status == "True"
    ]
    return "; ".join(texts) or instance_of(job.metadata.namespace, job.metadata.name)
