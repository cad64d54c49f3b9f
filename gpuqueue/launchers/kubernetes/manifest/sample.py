"""A Job of a class for no real job: what its pods look like. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.job import attempt_manifest
from gpuqueue.model.record import Record
from gpuqueue.settings.kubernetes import ClusterSettings


def sample(
    gpu_class: GpuClass, cluster: ClusterSettings, common: ManifestContext
) -> dict[str, Any]:
    """Return a Job of this class for no real job. Raises as :func:`attempt_manifest` does."""
    record: Record = {
        "delivery": "gpuqueue-check",
        "id": "gpuqueue-check",
        "task": "gpuqueue.check",
        "gpu_class": gpu_class.name,
        "isolation": gpu_class.default_isolation,
        "attempt": 1,
        "token": "check",
    }
    return attempt_manifest(record, gpu_class, cluster, common)


def sample_pod(
    gpu_class: GpuClass, cluster: ClusterSettings, common: ManifestContext
) -> Mapping[str, Any]:
    """Return the spec of a pod of this class, also of one whose jobs bring their image."""
    image = gpu_class.image or cluster.executor_image or "brought-by-the-job"
    job = sample(replace(gpu_class, image=image), cluster, common)
    pod: Mapping[str, Any] = job["spec"]["template"]["spec"]
    return pod
