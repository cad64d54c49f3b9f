"""What 10,000 jobs in flight cost a dispatcher: its memory, and the time until a new leader knows what runs.

Measured: from the moment a watcher leads until it has listed all pods and Jobs, told them to the launcher and compared them
with the holders in Redis (one run of the reconciler); less what the bare lists take, which is the floor. And the memory that
the launcher's table takes of this process, for each pod.
Peer: the client's typed models of the same pods, decoded and kept (memory; of a tenth of them).
Aim: at most 2 s beyond the lists.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from kubernetes import client

from benchmarks.harness import Figure, Sample, Size, timed
from benchmarks.kube import IMAGE, SETTINGS
from benchmarks.stage import Stage
from gpuqueue.classes import GpuClass
from gpuqueue.dispatch import Dispatcher
from gpuqueue.finish import Finisher
from gpuqueue.glue.states import States
from gpuqueue.job_names import selector
from gpuqueue.launchers.kubernetes.api import Api
from gpuqueue.launchers.kubernetes.launcher import KubernetesLauncher
from gpuqueue.manifest import ManifestContext, attempt_manifest
from gpuqueue.notes import KeptNotes
from gpuqueue.reconcile import Reconciler
from gpuqueue.store.attempts import Attempt, Attempts
from gpuqueue.store.line import BATCH, Line
from gpuqueue.store.logs import Logs
from gpuqueue.store.read import Reader
from gpuqueue.testing.cluster import Cluster, Node

IN_FLIGHT = 10_000
AIM = 2.0


def run(size: Size) -> list[Figure]:
    """Measure it. The double is in this process, and idle while it is not asked: its time is that of the floor, too."""
    count = size.of(IN_FLIGHT, 500)
    gpu_class = GpuClass("t4", shared_slots=count)
    nodes = [Node(f"n{index}", pods="20000", resources={"nvidia.com/gpu": str(count)}) for index in range(4)]
    with Stage() as stage, tempfile.TemporaryDirectory(prefix="gpuqueue-bench-") as folder:
        line, reader = Line(stage.client, by="bench", owner="bench"), Reader(stage.client)
        records = _running(line, Attempts(stage.client), gpu_class, count)
        with Cluster(Path(folder), processes=False, events=False, nodes=nodes) as cluster:
            common = ManifestContext(cluster.namespace, "bench")
            cluster.secret("gpuqueue", {"CELERY_BROKER_URL": stage.url()})
            named = GpuClass("t4", shared_slots=count, image=IMAGE)
            cluster.preload(attempt_manifest(record, named, SETTINGS, common) for record in records)
            api = _api(cluster)
            floor = timed(lambda: (api.list_pods(selector("bench")), api.list_jobs(selector("bench"))))
            finisher = Finisher(line, reader, Logs(stage.client), stage.app, "bench")
            dispatcher = Dispatcher(stage.client, line, reader, {"t4": gpu_class}, States(stage.app), finisher, 5)
            notes = KeptNotes(line, reader, Attempts(stage.client), Logs(stage.client), States(stage.app), stage.app)
            launcher = KubernetesLauncher(api, SETTINGS, common, {"t4": gpu_class}, dispatcher.on_end, notes)
            dispatcher.launcher = launcher
            finisher.use(launcher)
            gc.collect()
            before = psutil.Process().memory_info().rss
            began = time.perf_counter()
            launcher.lead(True)
            while True:
                try:
                    Reconciler(dispatcher, launcher, 5, 2).run(line.clock())
                    break
                except Exception:  # not synced yet
                    time.sleep(0.01)
            took = time.perf_counter() - began
            noted = timed(lambda: launcher.check(line.clock()))
            gc.collect()
            grown = (psutil.Process().memory_info().rss - before) / count
            held = sum(1 for _ in reader.holders("t4"))
            assert held == count, f"{held} of {count} hold their slot"
            peer = _models(cluster, count // 10)
            launcher.close()
            dispatcher.close()
            finisher.close()
    beyond = max(0.0, took - floor)
    return [
        Figure(
            f"{count} in flight: a new leader knows all, beyond the lists",
            "s",
            Sample("leader", (beyond,)),
            (),
            Sample("the lists", (floor,)),
            f"≤ {AIM:.0f} s",
            beyond <= AIM,
        ),
        Figure(f"{count} in flight: the first notes", "s", Sample("leader", (noted,))),
        Figure("memory of a pod in flight", "B", Sample("launcher", (grown,)), (Sample("V1Pod", (peer,)),)),
    ]


def _running(line: Line, attempts: Attempts, gpu_class: GpuClass, count: int) -> list[Any]:
    """Jobs that were launched and claimed."""
    line.open("t4")
    records: list[Any] = []
    for number in range(count):
        name = f"job-{number:05d}"
        record: Any = {"delivery": name, "id": name, "task": "shop.train", "gpu_class": "t4", "isolation": "shared"}
        line.accept("t4", record, "{}")
        records += line.enqueue(gpu_class, name)
    assert len(records) == count and BATCH
    for record in records:
        attempts.claim(Attempt("t4", record["delivery"], record["attempt"], record["token"]), "", "w")
    return records


def _api(cluster: Cluster) -> Api:
    import os

    os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
    try:
        return Api(SETTINGS)
    finally:
        del os.environ["KUBECONFIG"]


def _models(cluster: Cluster, count: int) -> float:
    """Bytes that the client's models of some pods take."""
    texts = [json.dumps(pod) for pod in cluster.pods()[:count]]
    gc.collect()
    before = psutil.Process().memory_info().rss
    model: Any = client.V1Pod
    kept = [model.from_dict(json.loads(text)) for text in texts]
    gc.collect()
    return (psutil.Process().memory_info().rss - before) / len(kept)
