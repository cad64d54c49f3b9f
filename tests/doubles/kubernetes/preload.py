"""Jobs that run already, for benchmarks: without the time to create their pods one by one."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.doubles.kubernetes.controllers.job_objects import pod_metadata
from tests.doubles.kubernetes.nodes.fleet import Fleet
from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.kinds import JOBS
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.wire import stamp


def preload(
    registry: Registry, fleet: Fleet, jobs: Iterable[Mapping[str, Any]], namespace: str
) -> list[str]:
    """Store Jobs, each with a pod that runs as a timer, spread over the nodes.

    Returns:
        The names of the pods.
    """
    names = []
    kubelets = list(fleet.kubelets.values())
    with _no_collection():
        for index, manifest in enumerate(jobs):
            kubelet = kubelets[index % len(kubelets)]
            with registry.store.lock:
                job, _ = registry.create(JOBS, namespace, manifest)
                pod = _bound_pod(registry, job, kubelet.host.name)
                kubelet.adopt(pod, fleet.scripted)
                job["status"] = {
                    "active": 1,
                    "ready": 1,
                    "terminating": 0,
                    "startTime": stamp(),
                    "uncountedTerminatedPods": {},
                }
                registry.store.save(JOBS, job)
                names.append(pod["metadata"]["name"])
    return names


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the garbage collection of Python: it would take long and find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _bound_pod(registry: Registry, job: Body, node: str) -> Body:
    spec = {**job["spec"]["template"]["spec"], "nodeName": node}
    pod = registry.create_pod(job["metadata"]["namespace"], pod_metadata(job), spec)
    pod["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "True",
            "lastProbeTime": None,
            "lastTransitionTime": stamp(),
        }
    ]
    return pod
