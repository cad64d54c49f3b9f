"""Which attempt a pod or a Job belongs to, parsed from its annotation."""

from __future__ import annotations

from dataclasses import replace

from gpuqueue.launchers.kubernetes.api.objects import Job
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.launchers.kubernetes.manifest.names import FINISHER_ROLE, ROLE, instance_of, record_of
from gpuqueue.model.attempt import LiveAttempt
from gpuqueue.model.record import Record
from gpuqueue.model.unbound import is_unbound


def of_pod(entry: Entry, namespace: str) -> LiveAttempt | None:
    """Return the attempt of a pod; None for a finisher and for an unreadable annotation."""
    meta = entry.pod.metadata
    if (meta.labels or {}).get(ROLE) == FINISHER_ROLE:
        return None
    record = record_of(meta.annotations or {})
    return LiveAttempt.of(record, instance_of(namespace, entry.job, meta.uid)) if record else None


def with_node(live: LiveAttempt, entry: Entry) -> LiveAttempt:
    """Return the attempt of a pod whose domain had no node when it was launched, in that of its
    node.
    """
    origin, node = live.record.get("domain", ""), entry.status.node
    if not (node and is_unbound(origin)):
        return live
    record: Record = {**live.record, "domain": node, "origin": origin}
    return replace(live, record=record)


def of_job(job: Job, namespace: str) -> LiveAttempt | None:
    """Return the attempt of a Job; None as in :func:`of_pod`."""
    meta = job.metadata
    if (meta.labels or {}).get(ROLE) == FINISHER_ROLE:
        return None
    record = record_of(meta.annotations or {})
    return LiveAttempt.of(record, instance_of(namespace, meta.name)) if record else None
