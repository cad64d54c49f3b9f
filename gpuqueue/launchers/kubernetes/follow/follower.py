"""Follow the pods of all attempts: say what runs and how it ended, tell of ends, keep logs. By the
dispatcher that leads.
"""

from __future__ import annotations

import builtins
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from gpuqueue.launchers.base import LauncherUnavailable, Observations, OnEnd
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow import logs
from gpuqueue.launchers.kubernetes.follow.attempts import of_job, of_pod
from gpuqueue.launchers.kubernetes.follow.clocks import Clocks
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.launchers.kubernetes.follow.podless import Podless
from gpuqueue.launchers.kubernetes.follow.pods import Pods
from gpuqueue.launchers.kubernetes.manifest.job import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.names import parse_instance
from gpuqueue.launchers.kubernetes.status.read_status import Phase, read_status
from gpuqueue.model.attempt import LiveAttempt
from gpuqueue.model.ends import EXECUTORS_OWN, End, explain
from gpuqueue.model.reasons import EndReason
from gpuqueue.settings.kubernetes import ClusterSettings

#: Logs fetched at once.
LOG_THREADS = 4


class Follower:
    """What a launcher sees while it leads.

    Args:
        api: the cluster and namespace.
        selector: of the attempts' labels.
        settings: clocks, and how much of a log is kept.
        common: what all Jobs share.
        on_end: told of every end, from the thread that follows the pods.
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
        self._clocks = Clocks(
            api, observations, settings, common.start_timeout, common.grace_seconds, self._known
        )
        self._podless = Podless(api, observations, settings)
        self._logs = ThreadPoolExecutor(LOG_THREADS, thread_name_prefix="gpuqueue-logs")
        self._attempts: dict[str, LiveAttempt | None] = {}
        self._begun_pods: set[str] = set()
        self._told: set[str] = set()
        self._jobs: list[LiveAttempt] = []
        self._jobs_at = float("-inf")

    def lead(self, leads: bool) -> None:
        """Follow the pods, or leave that to another."""
        if leads:
            self._told.clear()
            self._jobs_at = float("-inf")
            self.pods.start()
        else:
            self.pods.stop()

    def end_of(self, instance: str) -> End | None:
        """Say how an instance ended, by its pod, or by its Job where no pod is seen."""
        self._need_sight()
        parsed = parse_instance(instance)
        if parsed is None:
            return None
        entries = self.pods.by_job(parsed.job)
        for entry in entries:
            if entry.seen.end is None:
                return None
        if entries:
            known = self._known(entries[0])
            return self._read(entries[0], known) if known else entries[0].seen.end
        return self._podless.end_of(parsed.job)

    def list(self) -> builtins.list[LiveAttempt]:
        """Return every attempt whose pod has not ended, and those whose Job has no pod yet."""
        self._need_sight()
        found = {}
        for entry in self.pods.snapshot():
            known = self._known(entry) if entry.seen.end is None else None
            if known is not None:
                found[known.running.attempt] = known
        for known in self._without_pods():
            found.setdefault(known.running.attempt, known)
        return list(found.values())

    def deleted(self, name: str) -> None:
        """A Job is gone: it need not be looked at for want of a pod."""
        self._jobs = [
            known for known in self._jobs if known.running.instance.rpartition("/")[2] != name
        ]

    def check(self, now: float) -> None:
        """Note what attempts wait for, and give up those whose clock ran out; see clocks.py."""
        if self.pods.synced:
            self._clocks.check(self.pods.pending(), now)

    def _need_sight(self) -> None:
        # The first list is told before the first look, as a rule within milliseconds.
        if not self.pods.wait_synced(1.0):
            raise LauncherUnavailable(
                f"the pods are not known: no list for {self.pods.since_sync():.0f} s"
            )

    def _without_pods(self) -> builtins.list[LiveAttempt]:
        now = time.monotonic()
        if now - self._jobs_at >= self._settings.pod_relist_seconds:
            try:
                jobs, _ = self._api.list_jobs(self._selector)
            except ApiError as exc:
                raise LauncherUnavailable(str(exc)) from exc
            self._jobs_at = now
            # Most have their pod: what their annotations say need not be read.
            podless = [job for job in jobs if not self.pods.by_job(job.metadata.name)]
            unended = [
                job
                for job in podless
                if not any(each.status == "True" for each in job.status.conditions or ())
            ]
            self._jobs = [known for job in unended if (known := of_job(job, self._api.namespace))]
        # Once its pod is there, the Job tells nothing more.
        self._jobs = [
            known
            for known in self._jobs
            if not self.pods.by_job(known.running.instance.rpartition("/")[2])
        ]
        return self._jobs

    def _known(self, entry: Entry) -> LiveAttempt | None:
        uid = entry.pod.metadata.uid
        if uid not in self._attempts:
            self._attempts[uid] = of_pod(entry, self._api.namespace)
        return self._attempts[uid]

    # -- events ------------------------------------------------------------------------------------

    def _on_pod(self, entry: Entry, kind: str) -> None:
        uid, known = entry.pod.metadata.uid, self._known(entry)
        if (
            kind == "deleted"
            and entry.pod.metadata.deletion_timestamp is None
            and not read_status(entry.pod).end
        ):
            # Somebody changed its labels, and it runs on; or it was gone in no time. The next look
            # at its Job tells.
            self._forget(uid)
            return
        if known is not None:
            self._podless.seen(entry.job)
            if entry.seen.end is not None:
                self._clocks.gone(uid)
                self._ended(entry, known)
            else:
                if known.is_container and entry.seen.phase == Phase.RUNNING:
                    self._begun(entry, known)
                self._clocks.changed(entry)
        if kind == "deleted":
            self._forget(uid)

    def _forget(self, uid: str) -> None:
        self._attempts.pop(uid, None)
        self._begun_pods.discard(uid)
        self._told.discard(uid)

    def _ended(self, entry: Entry, known: LiveAttempt) -> None:
        uid = entry.pod.metadata.uid
        if uid in self._told:
            return
        self._told.add(uid)
        end = self._read(entry, known)
        if known.is_container:  # its log is part of its result
            self._logs.submit(self._container_ended, entry, known, end)
            return
        self._on_end(known.running, end)
        self._logs.submit(self._keep_log, entry, known)

    def _begun(self, entry: Entry, known: LiveAttempt) -> None:
        uid = entry.pod.metadata.uid
        if uid in self._begun_pods:
            return
        self._observations.begun(known, known.running.attempt.worker(entry.pod.metadata.name))
        self._begun_pods.add(uid)

    def _container_ended(self, entry: Entry, known: LiveAttempt, end: End) -> None:
        try:
            if "container_started" in end.evidence:
                self._begun(entry, known)  # it may have ended before anybody saw it run
            self._keep_log(entry, known)
        finally:
            self._on_end(known.running, end)

    def _keep_log(self, entry: Entry, known: LiveAttempt) -> None:
        if not entry.seen.node or not self._observations.wants_log(known.running.attempt):
            return
        text = logs.tail(self._api, entry.pod.metadata.name, self._settings.log_tail_bytes)
        if text:
            self._observations.keep_log(known.running.attempt, text)

    @staticmethod
    def _read(entry: Entry, known: LiveAttempt) -> End:
        end = entry.seen.end or explain(None)
        if not known.is_container:
            return end
        message = next(
            (
                each.terminated.message
                for each in entry.pod.status.container_statuses or ()
                if each.terminated
            ),
            None,
        )
        evidence = {**end.evidence, "message": message or ""}
        code = end.evidence.get("exit_code")
        if code == 0 and end.reason == EndReason.ERROR:
            return End(EndReason.SUCCEEDED, "", "", evidence)
        if (
            code in EXECUTORS_OWN and end.reason == EndReason.INFRA
        ):  # its program's own word, and not an executor's
            return End(
                EndReason.ERROR,
                f"its container ended with exit code {code} (node {entry.seen.node})",
                "",
                evidence,
            )
        return replace(end, evidence=evidence)

    def close(self) -> None:
        """Stop following. Jobs go on, and another dispatcher follows them."""
        self.pods.stop()
        self._logs.shutdown(wait=True, cancel_futures=True)
