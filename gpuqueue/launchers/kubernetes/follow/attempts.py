"""Which attempt a pod or a Job is of: read from its annotation."""

from __future__ import annotations

from dataclasses import dataclass

from gpuqueue.launchers.base import Held
from gpuqueue.launchers.kubernetes.api.objects import Job
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.launchers.kubernetes.manifest.names import FINISHER_ROLE, ROLE, instance_of, record_of
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.job import Record


@dataclass(frozen=True, slots=True)
class Known:
    """An attempt, as what runs it tells."""

    held: Held
    record: Record

    @property
    def is_container(self) -> bool:
        """Whether it is a container job, which no executor of ours claims."""
        return self.record.get("task") == CONTAINER_TASK


def of_pod(entry: Entry, namespace: str) -> Known | None:
    """Return the attempt of a pod; None for a finisher's, and for one whose annotation somebody has
    spoiled.
    """
    meta = entry.pod.metadata
    if (meta.labels or {}).get(ROLE) == FINISHER_ROLE:
        return None
    return _known(record_of(meta.annotations or {}), instance_of(namespace, entry.job, meta.uid))


def of_job(job: Job, namespace: str) -> Known | None:
    """Return the attempt of a Job; None as :func:`of_pod`."""
    if (job.metadata.labels or {}).get(ROLE) == FINISHER_ROLE:
        return None
    return _known(
        record_of(job.metadata.annotations or {}), instance_of(namespace, job.metadata.name)
    )


def _known(record: Record | None, instance: str) -> Known | None:
    if record is None:
        return None
    return Known(Held(record["gpu_class"], record["delivery"], record["attempt"], instance), record)
