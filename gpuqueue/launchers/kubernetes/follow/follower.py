"""Follow the pods of all attempts, as the leader: report what runs and how it ended, store logs."""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gpuqueue.launchers.base import LauncherUnavailable, Observations, OnEnd
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow import logs
from gpuqueue.launchers.kubernetes.follow.attempts import of_job, of_pod
from gpuqueue.launchers.kubernetes.follow.clocks import PodClocks
from gpuqueue.launchers.kubernetes.follow.jobs_without_pod import JobsWithoutPod
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.launchers.kubernetes.follow.pods import Pods
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.names import parse_instance
from gpuqueue.launchers.kubernetes.status.ends import container_end
from gpuqueue.launchers.kubernetes.status.read_status import Phase, read_status
from gpuqueue.model.attempt import Attempt, LiveAttempt
from gpuqueue.model.ends import End, explain
from gpuqueue.model.warm_pod import GOES_ON
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.steps import Steps

#: Logs fetched in parallel.
LOG_THREADS = 4


class Follower:
    """The pods of all attempts, while this process leads.

    Args:
        api: the cluster and namespace.
        selector: label selector of the attempts.
        settings: clocks, and the size of stored logs.
        common: what all Jobs share.
        on_end: called with each end, from the thread that follows the pods.
        observations: where observations are recorded.
    """

    def __init__(
        self,
        api: Requests,
        selector: str,
        settings: ClusterSettings,
        common: ManifestContext,
        on_end: OnEnd,
        observations: Observations,
    ) -> None:
        self._api = api
        self._selector = selector
        self._settings = settings
        self._on_end = on_end
        self._observations = observations
        self.pods = Pods(api, selector, self._on_pod, settings)
        self._clocks = PodClocks(
            api,
            observations,
            settings,
            common.start_timeout,
            common.grace_seconds,
            self._attempt_of,
        )
        self._jobs_without_pod = JobsWithoutPod(api, observations, settings)
        self._logs = ThreadPoolExecutor(LOG_THREADS, thread_name_prefix="gpuqueue-logs")
        self._steps = Steps()
        # What is known of pods in the table. Threads may still handle one that was deleted.
        self._lock = threading.Lock()
        self._attempts: dict[str, LiveAttempt | None] = {}
        self._begun_pods: set[str] = set()
        self._ended_pods: set[str] = set()
        self._listed: list[LiveAttempt] = []
        self._listed_at = float("-inf")

    def lead(self, leads: bool) -> None:
        """Start to follow the pods, or leave that to another dispatcher."""
        if leads:
            self._ended_pods.clear()
            self._listed_at = float("-inf")
            self.pods.start()
        else:
            self.pods.stop()

    def end_of(self, instance: str) -> End | None:
        """Return how an instance ended, from its pod, or from its Job if it has no pod."""
        self._require_sync()
        parsed = parse_instance(instance)
        if parsed is None:
            return None
        entries = self.pods.by_job(parsed.job)
        for entry in entries:
            if entry.status.end is None:
                return None
        if entries:
            live = self._attempt_of(entries[0])
            return _end_of(entries[0], live) if live else entries[0].status.end
        return self._jobs_without_pod.end_of(parsed.job)

    def list(self) -> builtins.list[LiveAttempt]:
        """Return every attempt whose pod has not ended, and those whose Job has no pod yet."""
        self._require_sync()
        found: dict[tuple[Attempt, str], LiveAttempt] = {}
        for entry in self.pods.snapshot():
            live = self._attempt_of(entry) if entry.status.end is None else None
            if live is not None:
                found[_identity(live)] = live
        for live in self._without_pods():
            found.setdefault(_identity(live), live)
        return list(found.values())

    def deleted(self, name: str) -> None:
        """Forget a deleted Job without a pod."""
        self._listed = [live for live in self._listed if _job_of(live) != name]

    def check(self, now: float) -> None:
        """Record what attempts wait for, and give up those whose clock ran out: see ``clocks``."""
        if self.pods.synced:
            self._clocks.check(self.pods.pending(), now)

    def _require_sync(self) -> None:
        # After a start, the first list mostly takes milliseconds.
        if not self.pods.wait_synced(1.0):
            raise LauncherUnavailable(f"pods unknown: no list for {self.pods.since_sync():.0f} s")

    def _without_pods(self) -> builtins.list[LiveAttempt]:
        now = time.monotonic()
        if now - self._listed_at >= self._settings.pod_relist_seconds:
            try:
                jobs, _ = self._api.list_jobs(self._selector)
            except ApiError as exc:
                raise LauncherUnavailable(str(exc)) from exc
            self._listed_at = now
            # Most Jobs have a pod, so parse only the annotations of the others.
            without_pod = [job for job in jobs if not self.pods.by_job(job.metadata.name)]
            unended = [
                job
                for job in without_pod
                if not any(each.status == "True" for each in job.status.conditions or ())
            ]
            self._listed = [live for job in unended if (live := of_job(job, self._api.namespace))]
        # Once a Job has a pod, only the pod counts.
        self._listed = [live for live in self._listed if not self.pods.by_job(_job_of(live))]
        return self._listed

    def _attempt_of(self, entry: Entry) -> LiveAttempt | None:
        uid = entry.pod.metadata.uid
        with self._lock:
            if uid in self._attempts:
                return self._attempts[uid]
        live = of_pod(entry, self._api.namespace)
        with self._lock:
            if self.pods.known(uid):
                self._attempts[uid] = live
        return live

    # -- events ------------------------------------------------------------------------------------

    def _on_pod(self, entry: Entry, kind: str) -> None:
        uid = entry.pod.metadata.uid
        # Its labels were changed, and it still runs; or it was deleted at once. The next read of
        # its Job decides.
        unknown = (
            kind == "deleted"
            and entry.pod.metadata.deletion_timestamp is None
            and not read_status(entry.pod).end
        )
        try:
            live = None if unknown else self._attempt_of(entry)
            if live is not None:
                self._handle(entry, live)
        finally:
            if kind == "deleted":
                self._forget(uid)

    def _handle(self, entry: Entry, live: LiveAttempt) -> None:
        self._jobs_without_pod.pod_appeared(entry.job)
        if entry.status.end is not None:
            self._clocks.gone(entry.pod.metadata.uid)
            self._ended(entry, live)
        else:
            if live.is_container and entry.status.phase == Phase.RUNNING:
                self._begun(entry, live)
            self._clocks.changed(entry)

    def _forget(self, uid: str) -> None:
        self._clocks.gone(uid)
        with self._lock:
            self._attempts.pop(uid, None)
            self._begun_pods.discard(uid)
            self._ended_pods.discard(uid)

    def _ended(self, entry: Entry, live: LiveAttempt) -> None:
        uid = entry.pod.metadata.uid
        if uid in self._ended_pods:
            return
        self._ended_pods.add(uid)
        end = _end_of(entry, live)
        if live.is_container:  # its log is part of its result
            self._beside(self._container_ended, entry, live, end)
            return
        self._on_end(live.running, end)
        self._beside(self._keep_log, entry, live)

    def _beside(self, act: Callable[..., None], entry: Entry, *arguments: Any) -> None:
        """Act in a thread of the logs: a pool tells of no error by itself."""
        step = partial(act, entry, *arguments)
        self._logs.submit(self._steps.run, "log", step, None, job=entry.pod.metadata.name)

    def _begun(self, entry: Entry, live: LiveAttempt) -> None:
        uid = entry.pod.metadata.uid
        if uid in self._begun_pods:
            return
        self._observations.begun(live, live.running.attempt.worker(entry.pod.metadata.name))
        with self._lock:
            if self.pods.known(uid):
                self._begun_pods.add(uid)

    def _container_ended(self, entry: Entry, live: LiveAttempt, end: End) -> None:
        try:
            if "container_started" in end.evidence:
                self._begun(entry, live)  # it may have ended before the watch reported its start
            self._keep_log(entry, live)
        finally:
            self._on_end(live.running, end)

    def _keep_log(self, entry: Entry, live: LiveAttempt) -> None:
        if not entry.status.node:
            return
        attempt = self._observations.latest(live.running)
        if not self._observations.wants_log(attempt):
            return
        text = logs.tail(self._api, entry.pod.metadata.name, self._settings.log_tail_bytes)
        if attempt != live.running.attempt:  # the log of the pod is that of earlier ones, too
            _, begins, text = text.rpartition(f"{GOES_ON} {attempt.holder}")
            text = text.partition("\n")[2] if begins else ""
        if text:
            self._observations.keep_log(attempt, text)

    def close(self) -> None:
        """Stop following. Jobs go on, and another dispatcher follows them."""
        self.pods.stop()
        self._logs.shutdown(wait=True, cancel_futures=True)


def _end_of(entry: Entry, live: LiveAttempt) -> End:
    end = entry.status.end or explain(None)
    return container_end(entry.pod, end) if live.is_container else end


def _identity(live: LiveAttempt) -> tuple[Attempt, str]:
    """Return what one attempt alone has: a number can be given twice."""
    return live.running.attempt, live.running.attempt.token


def _job_of(live: LiveAttempt) -> str:
    return live.running.instance.rpartition("/")[2]
