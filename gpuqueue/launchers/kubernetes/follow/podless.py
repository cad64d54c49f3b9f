"""Jobs that have no pod (yet, or any more): looked at one by one, seldom, since only the Job and
its events can tell.
"""

from __future__ import annotations

import logging
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
#: Seconds between two looks at one Job, at most. The Job controller makes a pod in milliseconds,
#: and tries again after seconds.
LOOK_EVERY = 5.0
#: Ends that are remembered at most.
REMEMBERED = 1000
#: What a Job without pod, that was there and is gone, says of its attempt.
GONE = End(
    EndReason.INFRA,
    "its Job and its pod are gone, and nobody saw how it ended (deleted by hand, or by a cleanup)",
)


class Podless:
    """Answers how an attempt ended whose pod nobody sees."""

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
        self._every = min(LOOK_EVERY, settings.quota_timeout / 4)
        self._looked: dict[str, float] = {}
        self._ended: dict[str, End] = {}

    def end_of(self, name: str) -> End | None:
        """Look at a Job, unless it was looked at just now; None: it may still run. Raises
        :class:`LauncherUnavailable`.

        How it ended is answered again and again, until a pod of it is seen: whoever asks wants to
        be sure.
        """
        if name in self._ended:
            return self._ended[name]
        now = self._clock()
        first = name not in self._looked
        if first or now - self._looked[name] < self._every:
            # Not at once: the watch tells of a new pod, too, and most often it is sooner.
            self._looked.setdefault(name, now)
            return None
        self._looked[name] = now
        try:
            end = self._look(name)
        except ApiError as exc:
            raise LauncherUnavailable(str(exc)) from exc
        if end is not None:
            if len(self._ended) >= REMEMBERED:
                del self._ended[next(iter(self._ended))]
            self._ended[name] = end
            del self._looked[name]
        return end

    def seen(self, name: str) -> None:
        """A pod of this Job was seen."""
        self._looked.pop(name, None)
        self._ended.pop(name, None)

    def _look(self, name: str) -> End | None:
        job = self._api.get_job(name)
        pods, _ = self._api.list_pods(f"{JOB_NAME}={name}")
        if pods:  # the watch will tell of it, or its labels were changed and it is not watched
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
                f"its pod is gone, and nobody saw how it ended; the Job says: {_words(job)}",
            )
        if job.metadata.deletion_timestamp is None:
            self._wait(name, job)
        return None

    def _wait(self, name: str, job: Job) -> None:
        """Note why the Job has no pod, and give it up when it has had none for too long."""
        known = of_job(job, self._api.namespace)
        if known is None:
            return
        reason, detail, wait, limit = self._why(name)
        self._observations.observed([Observation(known.running.attempt, wait, detail)])
        created = seconds(job.metadata.creation_timestamp)
        if created is not None and time.time() - created >= limit:
            self._give_up(name, known, reason, f"it had no pod within {limit:g} s: {detail}")

    def _give_up(self, name: str, known: LiveAttempt, reason: EndReason, error: str) -> None:
        attempt = known.running.attempt
        if self._observations.give_up(attempt, reason, error):
            logger.warning(
                "%s: given up: %s", attempt.delivery, error, extra={"action": "given_up"}
            )
            self._api.delete_job(name)
            self._looked[name] = float("-inf")  # it is gone in a moment: look at the next occasion

    def _why(self, name: str) -> tuple[EndReason, str, WaitReason, float]:
        refused = [each for each in self._api.job_events(name) if each.reason == "FailedCreate"]
        if not refused:
            limit = self._settings.launch_timeout
            return (
                EndReason.INFRA,
                "Kubernetes has not made its pod yet",
                WaitReason.STARTING,
                limit,
            )
        words = max(refused, key=lambda each: each.last_seen or 0.0).message or ""
        if "exceeded quota" in words:
            return EndReason.QUOTA, words, WaitReason.QUOTA, self._settings.quota_timeout
        # Pod Security, a webhook, a missing ServiceAccount or PriorityClass: for the operator to
        # mend.
        return EndReason.BAD_SPEC, words, WaitReason.LAUNCH_REFUSED, self._settings.quota_timeout


def _words(job: Job) -> str:
    said = [
        f"{each.reason}: {each.message}"
        for each in job.status.conditions or ()
        if each.status == "True"
    ]
    return "; ".join(said) or instance_of(job.metadata.namespace, job.metadata.name)
