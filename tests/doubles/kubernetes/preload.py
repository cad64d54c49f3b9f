"""Jobs that run already, for benchmarks: without the time that making their pods one by one would
take.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tests.doubles.kubernetes.nodes.worker import Worker
from tests.doubles.kubernetes.objects.deletion import TRACKING
from tests.doubles.kubernetes.objects.kinds import JOBS
from tests.doubles.kubernetes.objects.store import Body
from tests.doubles.kubernetes.objects.wire import generated, stamp

if TYPE_CHECKING:
    from tests.doubles.kubernetes.cluster import Cluster


def preload(cluster: Cluster, jobs: Iterable[Mapping[str, Any]], namespace: str) -> list[str]:
    """Store Jobs, each with a pod that runs, spread over the nodes; the names of the pods."""
    names = []
    kubelets = list(cluster.kubelets.values())
    collects = gc.isenabled()
    gc.disable()  # nothing of it is garbage, and looking for some takes longer than all the rest
    for index, manifest in enumerate(jobs):
        kubelet = kubelets[index % len(kubelets)]
        with cluster.store.lock:
            job, _ = cluster.registry.create(JOBS, namespace, manifest)
            pod = _pod_of(cluster, job, kubelet.name)
            worker = kubelet.workers[pod["metadata"]["uid"]] = Worker(kubelet, pod)
            worker.adopt(cluster.scripted)
            status = {
                "active": 1,
                "ready": 1,
                "terminating": 0,
                "startTime": stamp(),
                "uncountedTerminatedPods": {},
            }
            job["status"] = status
            cluster.store.save(JOBS, job)
            names.append(pod["metadata"]["name"])
    gc.freeze()
    if collects:
        gc.enable()
    return names


def _pod_of(cluster: Cluster, job: Body, node: str) -> Body:
    template, metadata = job["spec"]["template"], job["metadata"]
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    about: Body = {
        "name": generated(f"{metadata['name']}-"),
        "labels": template["metadata"]["labels"],
        "annotations": template["metadata"].get("annotations") or {},
        "finalizers": [TRACKING],
        "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
    }
    pod = cluster.registry.create_pod(
        metadata["namespace"], about, {**template["spec"], "nodeName": node}
    )
    scheduled = {
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": stamp(),
    }
    pod["status"]["conditions"] = [scheduled]
    return pod
