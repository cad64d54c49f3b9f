"""The latest state of the pods of all attempts, by uid, by Job, and those whose clock may run."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from sys import intern

from msgspec.structs import replace

from gpuqueue.launchers.kubernetes.api.objects import Condition, Pod, Toleration
from gpuqueue.launchers.kubernetes.manifest.names import RECORD, ROLE
from gpuqueue.launchers.kubernetes.status.read_status import Phase, PodStatusSummary, read_status

#: The label with the Job of a pod, which Kubernetes sets.
JOB_NAME = "batch.kubernetes.io/job-name"
#: The finalizer of the Job controller, which every pod of a Job has.
TRACKING = "batch.kubernetes.io/job-tracking"
#: The label with the uid of the Job of a pod.
CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
_LABELS = frozenset({JOB_NAME, CONTROLLER_UID, ROLE})


@dataclass(frozen=True, slots=True)
class Entry:
    """The latest state of a pod. ``first_seen`` is the time of its first event (monotonic)."""

    pod: Pod
    status: PodStatusSummary
    first_seen: float

    @property
    def job(self) -> str:
        """The name of its Job."""
        return (self.pod.metadata.labels or {}).get(JOB_NAME, "")


class PodTable:
    """uid → :class:`Entry`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._by_job: dict[str, tuple[str, ...]] = {}
        self._pending: set[str] = set()
        self._silent: set[str] = set()

    def put(self, pod: Pod, now: float) -> Entry:
        """Store the new state of a pod."""
        uid = pod.metadata.uid
        with self._lock:
            entry = self._entries[uid] = self._entry(pod, read_status(pod), now)
            others = self._by_job.get(entry.job, ())
            if uid not in others:
                self._by_job[entry.job] = (*others, uid)
            if entry.status.phase in (Phase.RUNNING, Phase.ENDED):
                self._pending.discard(uid)
            else:
                self._pending.add(uid)
            if entry.status.silent is None:
                self._silent.discard(uid)
            else:
                self._silent.add(uid)
        return entry

    def remove(self, pod: Pod, now: float) -> Entry:
        """Remove a deleted pod; return the entry of its last state, ``pod``."""
        uid = pod.metadata.uid
        with self._lock:
            entry = self._entry(pod, read_status(pod, deleted=True), now)
            known = self._entries.pop(uid, None)
            self._pending.discard(uid)
            self._silent.discard(uid)
            # Its label may have been removed, and it is stored under the last one.
            for job in {entry.job, known.job if known else entry.job}:
                others = tuple(other for other in self._by_job.pop(job, ()) if other != uid)
                if others:
                    self._by_job[job] = others
        return entry

    def _entry(self, pod: Pod, status: PodStatusSummary, now: float) -> Entry:
        known = self._entries.get(pod.metadata.uid)
        return Entry(_trimmed(pod), status, known.first_seen if known else now)

    def __contains__(self, uid: str) -> bool:
        with self._lock:
            return uid in self._entries

    def version(self, uid: str) -> str:
        """Return the latest version of a pod, or ""."""
        with self._lock:
            entry = self._entries.get(uid)
        return entry.pod.metadata.resource_version if entry else ""

    def beyond(self, uids: Iterable[str]) -> list[Pod]:
        """Return the pods in the table that are not among these uids."""
        with self._lock:
            return [self._entries[uid].pod for uid in self._entries.keys() - set(uids)]

    def snapshot(self) -> list[Entry]:
        """Return every pod."""
        with self._lock:
            return list(self._entries.values())

    def by_job(self, name: str) -> list[Entry]:
        """Return the pods of a Job: mostly one, none before its creation."""
        with self._lock:
            return [self._entries[uid] for uid in self._by_job.get(name, ())]

    def pending(self) -> list[Entry]:
        """Return the pods that neither run nor have ended, without a scan of all pods."""
        with self._lock:
            return [self._entries[uid] for uid in self._pending]

    def silent_nodes(self) -> dict[str, float]:
        """Return node → since when it has been silent, in Unix seconds, as a pod of it shows."""
        with self._lock:
            marked = [self._entries[uid].status for uid in self._silent]
        since: dict[str, float] = {}
        for status in marked:
            if status.silent is not None:
                since[status.node] = min(status.silent, since.get(status.node, status.silent))
        return since


def _trimmed(pod: Pod) -> Pod:
    """Drop unused fields of a pod and share repeated text: with 10,000 pods, most of the memory."""
    meta, status = pod.metadata, pod.status
    labels = {name: value for name, value in (meta.labels or {}).items() if name in _LABELS}
    annotations = {
        name: value for name, value in (meta.annotations or {}).items() if name == RECORD
    }
    conditions = tuple(map(_shared, status.conditions or ()))
    others = tuple(each for each in meta.finalizers or () if each != TRACKING) or None
    return replace(
        pod,
        metadata=replace(
            meta,
            namespace=intern(meta.namespace),
            labels=labels,
            annotations=annotations,
            finalizers=others,
        ),
        spec=replace(
            pod.spec,
            node_name=pod.spec.node_name and intern(pod.spec.node_name),
            tolerations=_one_of_all(pod.spec.tolerations),
        ),
        status=replace(status, phase=status.phase and intern(status.phase), conditions=conditions),
    )


@lru_cache(maxsize=64)
def _one_of_all(tolerations: tuple[Toleration, ...] | None) -> tuple[Toleration, ...] | None:
    """Return the first of equal ones: the pods of a class have the same."""
    return tolerations


def _shared(condition: Condition) -> Condition:
    at = condition.last_transition_time
    return replace(
        condition,
        type=intern(condition.type),
        status=intern(condition.status),
        reason=condition.reason and intern(condition.reason),
        message=condition.message and intern(condition.message),
        last_transition_time=at and intern(at),
    )
