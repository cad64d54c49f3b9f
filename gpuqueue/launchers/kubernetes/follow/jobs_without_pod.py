"""Jobs without a pod (yet, or any more): followed with their events by two watches, however many.

An end is concluded only from what the API says of this very Job, asked again; such requests have a
budget.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.base import LauncherUnavailable, Observations, StopRefused
from gpuqueue.launchers.kubernetes.api.answers import Event
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.objects import Job, Pod, seconds
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.attempts import of_job, of_pod
from gpuqueue.launchers.kubernetes.follow.budget import Budget
from gpuqueue.launchers.kubernetes.follow.deletions import Deletions
from gpuqueue.launchers.kubernetes.follow.followed import WATCH_SECONDS, Followed
from gpuqueue.launchers.kubernetes.follow.pod_table import JOB_NAME, Entry
from gpuqueue.launchers.kubernetes.follow.suspensions import Suspensions
from gpuqueue.launchers.kubernetes.manifest.names import instance_of
from gpuqueue.launchers.kubernetes.status.ends import container_end
from gpuqueue.launchers.kubernetes.status.read_status import read_status
from gpuqueue.launchers.kubernetes.status.refusals import (
    kind_of_refusal,
    of_its_class,
    with_fix,
)
from gpuqueue.model.attempt import LiveAttempt, Observation
from gpuqueue.model.ends import EXIT_OK, End
from gpuqueue.model.place import HOLDS, PlaceKind
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.settings.classes import of_class
from gpuqueue.settings.kubernetes import ClusterSettings

logger = logging.getLogger(__name__)
#: Shortest time between two looks at a Job, in seconds. The Job controller creates a pod in
#: milliseconds, and retries after seconds.
READ_EVERY = 5.0
#: Requests about single Jobs: per second, and at once. With the look at the API every 3 s and the
#: watches, a leader stays below 2 per second.
REQUESTS_PER_SECOND, REQUESTS_AT_ONCE = 1.0, 20.0
#: Seconds without data beyond the length of a watch until it counts as dead.
SILENCE = 10.0
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
        selector: str,
        observations: Observations,
        settings: ClusterSettings,
        clock: Callable[[], float] = time.monotonic,
        classes: Mapping[str, GpuClass] = MappingProxyType({}),
        suspensions: Suspensions | None = None,
        keep_log: Callable[[Entry, LiveAttempt], None] = lambda entry, live: None,
    ) -> None:
        self._api = api
        silence = min(settings.watch_silence_seconds, WATCH_SECONDS + SILENCE)
        self._jobs: Followed[Job] = Followed(
            "jobs",
            lambda: api.list_jobs(selector),
            lambda version, span: api.watch_jobs(selector, version, span, silence),
            lambda job: job.metadata.name,
        )
        self._rejections: Followed[Event] = Followed(
            "events",
            lambda: api.list_rejections(),
            lambda version, span: api.watch_rejections(version, span, silence),
            lambda event: event.involved_object.name,
        )
        self._budget = Budget(REQUESTS_PER_SECOND, REQUESTS_AT_ONCE, clock)
        self._observations = observations
        self._settings = settings
        self._quota = {name: of_class(settings, c).quota_timeout for name, c in classes.items()}
        self._clock = clock
        self._suspensions = suspensions
        self._keep_log = keep_log
        self._deletions = Deletions(api)
        shortest = min([settings.quota_timeout, *self._quota.values()])
        self._every = min(READ_EVERY, shortest / 4)
        self._lock = threading.Lock()
        self._read_at: dict[str, float] = {}  # the oldest first
        self._ended: dict[str, End] = {}

    def end_of(self, name: str) -> End | None:
        """Look at a Job, unless that was done recently, and return its end. None: it may still run.

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
            end = self._look(name)
        except ApiError as exc:
            raise LauncherUnavailable(str(exc)) from exc
        if end is not None:
            if len(self._ended) >= MOST_ENDS:
                del self._ended[next(iter(self._ended))]
            self._ended[name] = end
            self._read_at.pop(name, None)
        return end

    def stop(self) -> None:
        """Follow nothing any more: another dispatcher leads."""
        self._jobs.stop()
        self._rejections.stop()

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

    def _look(self, name: str) -> End | None:
        """Return the end of a Job, from its latest known state and, before an end, from the API."""
        if not (self._jobs.want() & self._rejections.want() and self._jobs.known()):
            self._again(name)  # the first list is on its way
            return None
        job = next(iter(self._jobs.of(name)), None)
        if job is None or job.status.ended:
            if self._budget.take(2):
                return self._end_by_api(name)
            self._again(name)
            return None
        if job.metadata.deletion_timestamp is None and not job.status.active:
            self._wait(name, job)
        return None  # a pod that is active will be reported, or changed labels hide it

    def _end_by_api(self, name: str) -> End | None:
        """Return the end of a Job as the API tells it now, in two requests."""
        job, pods = read(self._api, name)
        end = end_of(job, pods)
        found = [attempt_of(pod) for pod in pods] if end is not None else []
        for entry, live in found:
            if live is not None and live.is_container:  # its log is part of its result
                self._keep_log(entry, live)
        return end

    def _again(self, name: str) -> None:
        """Look at a Job again with the next call."""
        with self._lock:
            if name in self._read_at:
                self._read_at[name] = self._clock() - self._every

    def _wait(self, name: str, job: Job) -> None:
        """Record why the Job has no pod, and give it up after its limit."""
        live = of_job(job, self._api.namespace)
        if live is None:
            return
        if self._suspensions is not None:
            held, end = self._suspensions.of_job(job, live)
            if end is not None:
                self._ended[name] = end  # for the next call
            if held:
                return
        gpu_class = live.running.attempt.gpu_class
        quota_timeout = self._quota.get(gpu_class, self._settings.quota_timeout)
        kind, detail, wait, limit = self._why(name, quota_timeout)
        self._observations.observed([Observation(live.running.attempt, wait, detail)])
        created = seconds(job.metadata.creation_timestamp)
        now = self._api.server_time(self._observations.now())
        if created is not None and now - created >= limit:
            text = f"it had no pod within {limit:g} s: {detail}"
            self._give_up(name, live, End(HOLDS[kind].end, text, blames=kind))

    def _give_up(self, name: str, live: LiveAttempt, end: End) -> None:
        attempt = live.running.attempt
        if self._deletions.rests(name):
            return
        if not self._budget.take():
            self._again(name)
        elif self._observations.give_up(attempt, end):
            logger.warning(
                "%s: given up: %s", attempt.delivery, end.error, extra={"action": "given_up"}
            )
            with suppress(StopRefused):
                self._deletions.delete(name)
            self._again(name)

    def _why(self, name: str, quota_timeout: float) -> tuple[PlaceKind, str, WaitReason, float]:
        rejections = self._rejections.of(name)
        if not rejections:
            limit = self._settings.launch_timeout
            return (
                PlaceKind.LAUNCH,
                "Kubernetes has not created its pod yet",
                WaitReason.STARTING,
                limit,
            )
        message = max(rejections, key=lambda each: each.last_seen or 0.0).message or ""
        # A quota, Pod Security, a webhook, a missing ServiceAccount or PriorityClass: what refuses
        # this pod refuses that of every job of the class.
        kind = kind_of_refusal(message)
        return kind, with_fix(message), HOLDS[kind].wait, quota_timeout


def read(api: Requests, name: str) -> tuple[Job | None, list[Pod]]:
    """Return a Job, None if it is gone, and its pods, in two requests. Raises ApiError."""
    job = api.get_job(name)
    return job, api.list_pods(f"{JOB_NAME}={name}")[0]


def end_of(job: Job | None, pods: list[Pod]) -> End | None:
    """Return the end of a Job and its pods; None: it may still run."""
    if pods:  # the watch will report it, or changed labels hide it from the watch
        ends = [_end_of_pod(pod) for pod in pods]
        return ends[0] if all(ends) else None
    if job is None:
        return GONE
    ended = job.status.ended
    live = of_job(job, job.metadata.namespace)
    if ended and ended.type == "Complete" and live is not None and live.is_container:
        # Only its pod is gone (deleted with all that have ended, for room): it exited with 0.
        times = {"container_started": job.status.start_time}
        times |= {"container_finished": job.status.completion_time}
        known = {name: at for name, text in times.items() if (at := seconds(text)) is not None}
        return End(EndReason.SUCCEEDED, "", "", {"exit_code": EXIT_OK, "message": "", **known})
    if ended:
        return End(
            EndReason.INFRA,
            f"its pod is gone, and its end is unknown; the Job reports: {_conditions(job)}",
        )
    return None


def attempt_of(pod: Pod) -> tuple[Entry, LiveAttempt | None]:
    """Return a pod that was just read, and its attempt."""
    entry = Entry(pod, read_status(pod), 0.0)
    return entry, of_pod(entry, pod.metadata.namespace)


def _end_of_pod(pod: Pod) -> End | None:
    entry, live = attempt_of(pod)
    end = entry.status.end
    if end is None or live is None:
        return end
    end = of_its_class(end, live.record)
    return container_end(pod, end) if live.is_container else end


def _conditions(job: Job) -> str:
    texts = [
        f"{each.reason}: {each.message}"
        for each in job.status.conditions or ()
        if each.status == "True"
    ]
    return "; ".join(texts) or instance_of(job.metadata.namespace, job.metadata.name)
