"""What 10,000 jobs in flight cost a dispatcher: its memory, and the time until a new leader knows
the state of the cluster.

Measured: from the moment a watcher leads until it has listed all pods and Jobs, passed them to the
launcher and compared them with the holders in Redis (one run of repair). In turns with the floor,
which is subtracted: both lists, decoded, one after the other, with the same client. Then the
observations that the leader's next cycle keeps in Redis. The double runs in a separate process, and
every new leader has a new launcher. Memory: the growth of this process (its resident set) per pod
after the first cycle of the leader, including the parts of API responses that Python has not
released. Peer: the typed models of the client for the same pods, decoded and kept (for a tenth of
them). Aim: at most 2 s beyond the lists.
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
from benchmarks.kube import SETTINGS, Double
from benchmarks.parts import Parts
from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.base import Launcher, LauncherUnavailable, Observations, OnEnd
from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.launcher import KubernetesLauncher
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.job import attempt_manifest
from gpuqueue.launchers.kubernetes.manifest.names import selector
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.clock import redis_time
from gpuqueue.store.line import Line

IN_FLIGHT = 10_000
AIM = 2.0


class _Leader:
    """A dispatcher that has just started and does not lead yet."""

    def __init__(self, stage: Stage, api: Api, gpu_class: GpuClass) -> None:
        self._client = stage.client
        common = ManifestContext(api.namespace, "bench")
        classes = {gpu_class.name: gpu_class}

        def make(on_end: OnEnd, observations: Observations) -> Launcher:
            return KubernetesLauncher(api, SETTINGS, common, classes, on_end, observations)

        self._parts = Parts(stage, classes, make, "bench")

    def take_over(self) -> None:
        """Lead until the cluster state has been compared with Redis."""
        self._parts.launcher.lead(True)
        while True:
            try:
                return self._parts.repair.run(redis_time(self._client))
            except LauncherUnavailable:  # the first list is not complete yet
                time.sleep(0.01)

    def note(self) -> None:
        """Keep the observations."""
        self._parts.launcher.check(redis_time(self._client))

    def close(self) -> None:
        """End its threads."""
        self._parts.close()


def run(size: Size) -> list[Figure]:
    """Measure it."""
    count, turns = size.of(IN_FLIGHT, 500), size.of(5, 2)
    gpu_class = GpuClass("t4", shared_slots=count)
    found: dict[str, list[float]] = {"lists": [], "took": [], "noted": []}
    with Stage() as stage, tempfile.TemporaryDirectory(prefix="gpuqueue-bench-") as folder:
        records = _running(stage.client, gpu_class, count)
        double = Double(Path(folder), pace=1.0, nodes=4, gpus=count)
        try:
            api: Api = double.api()
            common = ManifestContext(api.namespace, "bench")
            double.preload(
                attempt_manifest(record, gpu_class, SETTINGS, common) for record in records
            )
            lists = lambda: (api.list_pods(selector("bench")), api.list_jobs(selector("bench")))  # noqa: E731 - one of the turns
            empty = full = _rss()
            for turn in range(turns):
                leader = _Leader(stage, api, gpu_class)
                found["took"].append(timed(leader.take_over))
                found["noted"].append(timed(leader.note))
                if not turn:
                    full = _rss()
                leader.close()
                del leader
                found["lists"].append(timed(lists))
                gc.collect()
            held = sum(1 for _ in stage.reader.holders("t4"))
            assert held == count, f"{held} of {count} hold their slot"
            typed = _typed(api, count // 10)
        finally:
            double.close()
    beyond = tuple(took - floor for took, floor in zip(found["took"], found["lists"], strict=True))
    mine = Sample("new leader", beyond)
    floor = Sample("the lists (taken off)", tuple(found["lists"]))
    led = Sample("before it led", (empty / 1e6,))
    knows = f"{count} in flight: until a new leader knows all"
    return [
        Figure(knows, "s", mine, (), floor, f"≤ {AIM:g} s", mine.middle <= AIM),
        Figure(
            f"{count} in flight: its first notes", "s", Sample("new leader", tuple(found["noted"]))
        ),
        Figure(
            "memory of a pod in flight",
            "B",
            Sample("leader", ((full - empty) / count,)),
            (Sample("V1Pod", (typed,)),),
        ),
        Figure(
            f"memory of this process, {count} in flight",
            "MB",
            Sample("leader", (full / 1e6,)),
            (),
            led,
        ),
    ]


def _running(redis: Any, gpu_class: GpuClass, count: int) -> list[Record]:
    """Create launched and claimed jobs."""
    line = Line(redis, by="bench", owner="bench")
    line.open(gpu_class.name)
    records: list[Record] = []
    for number in range(count):
        name = f"job-{number:05d}"
        record: Record = {
            "delivery": name,
            "id": name,
            "task": "shop.train",
            "gpu_class": "t4",
            "isolation": "shared",
        }
        records += line.take_in(gpu_class, record, "{}").granted
    assert len(records) == count, f"{len(records)} of {count} were admitted"
    for record in records:
        ExecutorAttempt(redis, Attempt.of(record), record["token"]).claim("", "bench")
    return records


def _rss() -> float:
    """Return the bytes of this process after garbage collection."""
    gc.collect()
    return float(psutil.Process().memory_info().rss)


def _typed(api: Api, count: int) -> float:
    """Return the bytes of the client's model of a pod."""
    path = f"/api/v1/namespaces/{api.namespace}/pods"
    body = json.loads(
        api._transport.send(
            "list pods", "GET", path, {"labelSelector": selector("bench"), "limit": count}
        )
    )
    before = _rss()
    model: Any = client.V1Pod
    kept = [model.from_dict(pod) for pod in body["items"]]
    return (_rss() - before) / len(kept)
