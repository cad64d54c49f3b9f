"""Which pods may run other jobs after their own, and what they are told. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.pod_fields import longest_run
from gpuqueue.model.record import Record, goes_on
from gpuqueue.model.warm_pod import WARM_POD, WarmPod
from gpuqueue.settings.classes import of_class
from gpuqueue.settings.kubernetes import ClusterSettings


def warm_variables(
    record: Record, gpu_class: GpuClass, settings: ClusterSettings, common: ManifestContext
) -> dict[str, str]:
    """Return what a pod needs to go on with other jobs; {} if its job does not allow it."""
    if not goes_on(record):
        return {}
    pod = WarmPod(
        site=common.owner,
        application=common.app or "",
        settings=settings_name(gpu_class, settings, common),
        jobs=gpu_class.warm_jobs,
        age=gpu_class.warm_age,
        log=settings.log_tail_bytes,
        longest=longest_run(record, gpu_class),
    )
    return {WARM_POD: pod.text()}


def settings_name(gpu_class: GpuClass, settings: ClusterSettings, common: ManifestContext) -> str:
    """Return what names all that the Jobs of a class are made from, beside their own job: a pod
    that was made from another takes no job.
    """
    shares: dict[str, Any] = {"shared_slots": 0, "exclusive_slots": 0}
    settings, common = of_class(settings, gpu_class), common.of_class(gpu_class)
    made_from = [asdict(replace(gpu_class, **shares)), settings.model_dump(), asdict(common)]
    text = json.dumps(made_from, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
