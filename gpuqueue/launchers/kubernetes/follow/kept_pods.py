"""Pods that other containers keep after the end of their executor: the log is stored, and the Job
deleted, so that the pod gives its GPU back.

Never here: the slot. It is free once the pod has ended.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.deletions import Deletions
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.launchers.kubernetes.status.beside import kept_by
from gpuqueue.launchers.kubernetes.status.ends import end_of
from gpuqueue.model.attempt import LiveAttempt
from gpuqueue.model.ends import End

logger = logging.getLogger(__name__)


class KeptPods:
    """Ends such pods. Thread-safe.

    Args:
        api: deletes Jobs.
        beside: calls a function for a pod in another thread.
        keep_log: stores the log of a pod's executor; may take a while.
    """

    def __init__(
        self,
        api: Requests,
        beside: Callable[[Callable[[Entry, LiveAttempt], None], Entry, LiveAttempt], object],
        keep_log: Callable[[Entry, LiveAttempt], None],
    ) -> None:
        self._deletions = Deletions(api)
        self._beside = beside
        self._keep_log = keep_log
        self._lock = threading.Lock()
        self._ends: dict[str, End] = {}
        self._to_delete: dict[str, tuple[Entry, LiveAttempt]] = {}
        self._under_way: set[str] = set()

    def changed(self, entry: Entry, live: LiveAttempt) -> None:
        """Note the end of an executor, and end its pod, unless its node does."""
        uid = entry.pod.metadata.uid
        with self._lock:
            first = uid not in self._ends
            if first:
                # What ends the pod later is not what has ended the executor.
                self._ends[uid] = end_of(entry.pod)
            if not (kept_by(entry.pod) and first and entry.job):
                return
            self._to_delete[uid] = entry, live
        logger.warning(
            "%s: %s; its Job is deleted",
            live.running.attempt.holder,
            entry.status.detail,
            extra={"action": "kept_pod"},
        )
        self.check()

    def with_own_end(self, entry: Entry) -> Entry:
        """Return a pod that has ended with the end of its executor, if others have kept it."""
        end = self._ends.get(entry.pod.metadata.uid)
        if end is None or entry.status.end is None:
            return entry
        return replace(entry, status=replace(entry.status, end=end))

    def check(self) -> None:
        """Delete the Jobs that are not deleted yet."""
        with self._lock:
            due = [
                each
                for uid, each in self._to_delete.items()
                if uid not in self._under_way and not self._deletions.rests(each[0].job)
            ]
            self._under_way.update(entry.pod.metadata.uid for entry, _ in due)
        for entry, live in due:
            self._beside(self._let_go, entry, live)

    def forget(self, uid: str) -> None:
        """Forget a pod that is gone."""
        with self._lock:
            self._ends.pop(uid, None)
            self._to_delete.pop(uid, None)

    def _let_go(self, entry: Entry, live: LiveAttempt) -> None:
        uid = entry.pod.metadata.uid
        try:
            if uid not in self._to_delete:
                return
            self._keep_log(entry, live)
            if self._deletions.delete_or_tell(entry.job, live.running.attempt.holder):
                with self._lock:
                    self._to_delete.pop(uid, None)
        finally:
            with self._lock:
                self._under_way.discard(uid)
