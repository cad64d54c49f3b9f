"""Follow the pods of all attempts, as the leader: report what runs and how it ended, store logs."""

from __future__ import annotations

import builtins
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from types import MappingProxyType
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.base import LauncherUnavailable, Observations, OnEnd, WholeLogs
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.attempts import of_job, of_pod, with_node
from gpuqueue.launchers.kubernetes.follow.class_nodes import ClassNodes
from gpuqueue.launchers.kubernetes.follow.clocks import PodClocks
from gpuqueue.launchers.kubernetes.follow.closed_nodes import ClosedNodes
from gpuqueue.launchers.kubernetes.follow.deletions import Deletions
from gpuqueue.launchers.kubernetes.follow.ended_jobs import Ended, EndedJobs, of_pods
from gpuqueue.launchers.kubernetes.follow.ended_jobs import of_job as ended_of_job
from gpuqueue.launchers.kubernetes.follow.jobs_without_pod import JobsWithoutPod
from gpuqueue.launchers.kubernetes.follow.kept_pods import KeptPods
from gpuqueue.launchers.kubernetes.follow.node_starts import NodeStarts
from gpuqueue.launchers.kubernetes.follow.pod_logs import PodLogs
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.launchers.kubernetes.follow.pods import Pods
from gpuqueue.launchers.kubernetes.follow.sight import Sight
from gpuqueue.launchers.kubernetes.follow.silence import Silence, SilentAttempts
from gpuqueue.launchers.kubernetes.follow.suspensions import Suspensions
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.names import parse_instance
from gpuqueue.launchers.kubernetes.manifest.sample import sample_pod
from gpuqueue.launchers.kubernetes.status.ends import container_end
from gpuqueue.launchers.kubernetes.status.read_status import Phase, never_runs, read_status
from gpuqueue.launchers.kubernetes.status.refusals import of_its_class
from gpuqueue.model.attempt import Attempt, LiveAttempt
from gpuqueue.model.ends import End, explain
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.steps import Steps

logger = logging.getLogger(__name__)
#: Logs fetched in parallel.
LOG_THREADS = 4
#: Seconds that a stop waits for the log so far.
EARLY_WITHIN = 2.0
#: Seconds that an end waits at most until its log is stored, or its Job read.
DECIDED_WITHIN = 120.0


class Follower:
    """The pods of all attempts, while this process leads.

    Args:
        api: the cluster and namespace.
        selector: label selector of the attempts.
        settings: clocks, and the size of stored logs.
        common: what all Jobs share.
        on_end: called with each end, from the thread that follows the pods.
        observations: where observations are recorded.
        classes: the classes, by name.
        whole_logs: takes whole logs; None: nothing does.
    """

    def __init__(
        self,
        api: Requests,
        selector: str,
        settings: ClusterSettings,
        common: ManifestContext,
        on_end: OnEnd,
        observations: Observations,
        classes: Mapping[str, GpuClass] = MappingProxyType({}),
        whole_logs: WholeLogs | None = None,
    ) -> None:
        self._api = api
        self._selector = selector
        self._settings = settings
        self._on_end = on_end
        self._observations = observations
        self._deletions = Deletions(api)
        self.sight = Sight(lambda: api.look())
        self.pods = Pods(api, selector, self._on_pod, settings, self.sight)
        self.nodes = ClassNodes(
            api,
            observations,
            classes,
            lambda each: sample_pod(each, settings, common),
            common.owner,
        )
        self._starts = NodeStarts(classes)
        self._clocks = PodClocks(
            api,
            observations,
            settings,
            common.start_timeout,
            common.grace_seconds,
            self._attempt_of,
            classes,
            self.nodes.is_gone,
            self._starts,
        )
        claim_within = settings.claim_within(common.start_timeout)
        self._closed_nodes = ClosedNodes(api)
        self._suspensions = Suspensions(api, observations, claim_within, self._attempt_of)
        self._pod_logs = PodLogs(
            api, observations, settings.log_tail_bytes, whole_logs, common.owner
        )
        self._jobs_without_pod = JobsWithoutPod(
            *(api, selector, observations, settings),
            classes=classes,
            suspensions=self._suspensions,
            keep_log=lambda entry, live: self._pod_logs.keep(entry, live, within=0.0),
        )
        self._silent = SilentAttempts(
            api, observations, on_end, self._attempt_of, self._clocks.is_unconfirmed
        )
        self._kept_pods = KeptPods(api, self._beside, self._let_go)
        self._logs = ThreadPoolExecutor(LOG_THREADS, thread_name_prefix="gpuqueue-logs")
        self._steps = Steps()
        # What is known of pods in the table. Threads may still handle one that was deleted.
        self._lock = threading.Lock()
        self._attempts: dict[str, LiveAttempt | None] = {}
        self._begun_pods: set[str] = set()
        self._ended_pods: set[str] = set()
        self._undecided: dict[str, float] = {}  # ended pods whose end is still read → by when
        self._decided: dict[str, End] = {}  # ends of deleted pods, as they were read
        self._without_end: set[str] = set()  # those whose attempt waits for another pod
        self._deleted_jobs: set[str] = set()  # by this process, and their pods are still there
        self._listed: list[LiveAttempt] = []
        self._ended_jobs = EndedJobs(api, observations, settings.job_ttl_seconds)
        self._ended_without_pod: list[Ended] = []
        self._listed_at = float("-inf")

    def lead(self, leads: bool) -> None:
        """Start to follow the pods, or leave that to another dispatcher."""
        self._silent.forget()
        self.nodes.forget()
        if leads:
            self._ended_pods.clear()
            self._listed_at = float("-inf")
            self.sight.lead(True)
            self.pods.start()
        else:
            self.pods.stop()
            self._jobs_without_pod.stop()
            self.sight.lead(False)

    @property
    def is_behind(self) -> bool:
        """Whether this process leads, and does not know what the pods are doing."""
        return self.pods.started and not self.pods.synced

    def end_of(self, instance: str) -> End | None:
        """Return how an instance ended, from its pod, or from its Job if it has no pod."""
        self._require_sync()
        parsed = parse_instance(instance)
        if parsed is None:
            return None
        entries = [
            each
            for each in self.pods.by_job(parsed.job)
            if each.pod.metadata.uid not in self._without_end
        ]
        for entry in entries:
            if entry.status.end is None:
                return self._silent.end_of(entry)
            if self._is_undecided(entry):
                return None
        if entries and (decided := self._decided.get(entries[0].pod.metadata.uid)):
            return decided
        if entries:
            entry = self._kept_pods.with_own_end(entries[0])
            live = self._attempt_of(entry)
            return self._end_of(entry, live) if live else entry.status.end
        return self._jobs_without_pod.end_of(parsed.job)

    def list(self) -> builtins.list[LiveAttempt]:
        """Return every attempt whose pod has not ended, and those whose Job has no pod yet."""
        self._require_sync()
        found: dict[tuple[Attempt, str], LiveAttempt] = {}
        for entry in self.pods.snapshot():
            ended = entry.status.end or self._silent.end_of(entry)
            live = None if ended else self._attempt_of(entry)
            if live is not None:
                found[_identity(live)] = with_node(live, entry)
        for live in self._without_pods():
            found.setdefault(_identity(live), live)
        return list(found.values())

    def delete(self, name: str) -> bool:
        """Delete a Job, and forget it if it has no pod; return False if there was none. Raises
        ApiError and :class:`StopRefused`.
        """
        existed = self._deletions.delete(name)
        if self.pods.by_job(name):
            self._deleted_jobs.add(name)
        self._listed = [live for live in self._listed if _job_of(live) != name]
        return existed

    def before_stop(self, job: str) -> None:
        """Read the log of a Job's pod before they are deleted: the pod may be gone with its log
        soon. Takes a bounded time. Raises :class:`StopRefused`.
        """
        self._deletions.check(job)
        running = [each for each in self.pods.by_job(job) if each.status.phase == Phase.RUNNING]
        found = [(each, live) for each in running if (live := self._attempt_of(each))]
        wait([self._beside(self._pod_logs.read_early, *each) for each in found], EARLY_WITHIN)

    def check(self, now: float) -> None:
        """Record what attempts wait for, and give up those whose clock ran out: see ``clocks``.

        End the attempts on nodes that an operator has confirmed gone: see ``silence``. ``now`` is a
        time of Redis.
        """
        if not self.pods.synced:
            return
        there = self._api.server_time(now)
        nodes = self.pods.silent_nodes()
        silence = Silence(nodes, self._settings.node_silent_seconds, there, there - now)
        waiting = self.pods.pending()
        entries = self.pods.snapshot() if nodes or self._clocks.silent() else waiting
        self.nodes.check(any(each.status.wait == WaitReason.UNSCHEDULABLE for each in waiting))
        self._clocks.check(self._suspensions.check(entries, there), there, silence)
        self._silent.check(entries, silence)
        self._kept_pods.check()
        if self._ended_jobs.is_due():
            self._logs.submit(self._steps.run, "sweep", partial(self._sweep, there), None)

    @property
    def silent(self) -> Mapping[tuple[str, str], int]:
        """(class, node) → attempts that hold a slot on a silent node."""
        return self._silent.count

    def _sweep(self, now: float) -> None:
        """Delete Jobs whose end is written."""
        busy = self._pod_logs.due().union(tuple(self._undecided))
        found = ((each, self._attempt_of(each)) for each in self.pods.snapshot())
        self._ended_jobs.sweep([*of_pods(found, busy), *self._ended_without_pod], now)

    def _require_sync(self) -> None:
        # After a start, the first list mostly takes milliseconds.
        if not self.pods.wait_synced(1.0):
            since = self.pods.since_sync()
            raise LauncherUnavailable(f"pods unknown: no answer for {since:.0f} s")

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
            unended = [job for job in without_pod if not job.status.ended]
            self._listed = [live for job in unended if (live := of_job(job, self._api.namespace))]
            ended = [job for job in without_pod if job not in unended]
            self._ended_without_pod = [
                found
                for job in ended
                if (live := of_job(job, self._api.namespace)) and (found := ended_of_job(job, live))
            ]
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
                self._deleted_jobs.discard(entry.job)

    def _handle(self, entry: Entry, live: LiveAttempt) -> None:
        self._jobs_without_pod.pod_appeared(entry.job)
        own = live.record.get("image") or ""
        self._starts.changed(entry, live.running.attempt.gpu_class, own)
        if entry.status.end is not None:
            self._clocks.gone(entry.pod.metadata.uid)
            self._ended(entry, live)
        else:
            if live.is_container and entry.status.phase == Phase.RUNNING:
                self._begun(entry, live)
            if entry.status.phase == Phase.OTHERS_RUN:
                self._kept_pods.changed(entry, live)
            self._clocks.changed(entry)

    def _forget(self, uid: str) -> None:
        self._clocks.gone(uid)
        self._kept_pods.forget(uid)
        self._silent.gone(uid)
        self._starts.forget(uid)
        with self._lock:
            self._attempts.pop(uid, None)
            self._begun_pods.discard(uid)
            self._ended_pods.discard(uid)
            self._without_end.discard(uid)
            self._decided.pop(uid, None)

    def _ended(self, entry: Entry, live: LiveAttempt) -> None:
        uid = entry.pod.metadata.uid
        if uid in self._ended_pods:
            return
        self._ended_pods.add(uid)
        if entry.pod.metadata.finalizers and never_runs(entry.pod):
            logger.warning(
                "%s: its pod %s was deleted before it had a node, and stays for its finalizers %s;"
                " its slot is free",
                live.running.attempt.holder,
                entry.pod.metadata.name,
                ", ".join(entry.pod.metadata.finalizers),
                extra={"action": "pod_stays"},
            )
        end = self._end_of(self._kept_pods.with_own_end(entry), live)
        if end.reason is EndReason.POD_DELETED and entry.job not in self._deleted_jobs:
            self._undecided[uid] = time.monotonic() + DECIDED_WITHIN
            self._beside(self._pod_deleted, entry, live, end)
            return
        self._tell(entry, live, end)

    def _pod_deleted(self, entry: Entry, live: LiveAttempt, end: End) -> None:
        """Tell the end of a deleted pod, unless its attempt waits for another one."""
        uid = entry.pod.metadata.uid
        found: End | None = end
        try:
            found = self._suspensions.end_after(entry, live, end)
            if found is not None and found.reason is EndReason.POD_DELETED:
                ask = partial(self._closed_nodes.end_now, entry.job, entry.pod, found)
                found = self._suspensions.patiently(entry.job, ask) or found
        finally:
            with self._lock:
                if found is not None and self.pods.known(uid):
                    self._decided[uid] = found
            self._undecided.pop(uid, None)
            if found is not None:
                self._tell(entry, live, found)
            else:
                with self._lock:
                    if self.pods.known(uid):
                        self._without_end.add(uid)

    def _end_of(self, entry: Entry, live: LiveAttempt) -> End:
        end = of_its_class(entry.status.end or explain(None), live.record)
        gpu_class = live.running.attempt.gpu_class
        own = live.record.get("image") or ""
        end = self._starts.where_it_belongs(end, entry.status.node, gpu_class, own)
        return container_end(entry.pod, end) if live.is_container else end

    def _is_undecided(self, entry: Entry) -> bool:
        by = self._undecided.get(entry.pod.metadata.uid)
        return by is not None and time.monotonic() < by

    def _tell(self, entry: Entry, live: LiveAttempt, end: End) -> None:
        uid = entry.pod.metadata.uid
        self._pod_logs.expect(entry)
        if live.is_container:  # its log is part of its result
            self._undecided[uid] = time.monotonic() + DECIDED_WITHIN
            self._beside(self._container_ended, entry, live, end)
            return
        try:
            self._on_end(live.running, end)
        except Exception:
            self._pod_logs.done(entry)
            raise
        self._beside(self._pod_logs.keep_last, entry, live)

    def _beside(self, act: Callable[..., None], entry: Entry, *arguments: Any) -> Future[Any]:
        """Act in a thread of the logs: a pool tells of no error by itself."""
        step = partial(act, entry, *arguments)
        return self._logs.submit(self._steps.run, "log", step, None, job=entry.pod.metadata.name)

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
            self._pod_logs.keep(entry, live)
        finally:
            try:
                self._on_end(live.running, end)
                self._pod_logs.hand_over(entry, live)
            finally:
                self._pod_logs.done(entry)
                self._undecided.pop(entry.pod.metadata.uid, None)

    def _let_go(self, entry: Entry, live: LiveAttempt) -> None:
        """Store what is needed of a pod before its Job is deleted."""
        if live.is_container:
            self._begun(entry, live)
        self._pod_logs.keep(entry, live)
        self._pod_logs.hold(entry)
        self._pod_logs.hand_over(entry, live)

    def close(self) -> None:
        """Stop following. Jobs go on, and another dispatcher follows them."""
        self._suspensions.close()
        self.pods.stop()
        self._jobs_without_pod.stop()
        self.sight.close()
        self._logs.shutdown(wait=True, cancel_futures=True)


def _identity(live: LiveAttempt) -> tuple[Attempt, str]:
    """Return what one attempt alone has: a number can be given twice."""
    return live.running.attempt, live.running.attempt.token


def _job_of(live: LiveAttempt) -> str:
    return live.running.instance.rpartition("/")[2]
