"""How soon the job of a caller is a Job of the cluster.

Measured: from ``apply_async`` until the watch of Jobs reports the Job to a bare socket, one job at
a time; a separate dispatcher process (``celery -A gpuqueue worker``) with free slots. The floor is
subtracted: the POST of the same Job by this process, until the same watch reports it. Percentiles
cover all jobs of all rounds; the spread covers the rounds. Peer: a plain Celery worker (threads)
whose task creates the same Job with the official client, with the floor subtracted. Then a burst:
jobs sent one after the other without waiting, each measured from its ``apply_async``; nothing is
subtracted.

It uses the double, with 5 ms for each request, or with BENCH_KUBERNETES=1 the cluster of
KUBECONFIG. There, BENCH_IMAGE is the image of the Jobs, which need not exist: no step waits for a
pod, and the Jobs are deleted at the end.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, Sample, Size, alternate, percentile, until
from benchmarks.kube import IMAGE, SETTINGS, cluster
from benchmarks.kube_eyes import Eye
from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.job import Manifest, attempt_manifest
from gpuqueue.launchers.kubernetes.manifest.names import selector

#: Slots of the class: more than the number of jobs, because no job ends.
SLOTS = 2000
QUEUE, WORKER = "gpu.t4.shared", "bench-jobs"


def run(size: Size) -> list[Figure]:
    """Measure it."""
    rounds, count, burst = size.of(10, 2), size.of(50, 10), size.of(200, 20)
    with tempfile.TemporaryDirectory(prefix="gpuqueue-bench-") as folder:
        where = cluster(Path(folder), pace=1.0, gpus=SLOTS)
        owner = f"bench-{uuid.uuid4().hex[:8]}"
        api: Api = where.api()
        told = {
            "GPU_EXECUTION_MODE": "k8s_job",
            "GPU_EXECUTOR_IMAGE": IMAGE,
            "GPU_OWNER": owner,
            "T4_SHARED_SLOTS": str(SLOTS),
            "KUBECONFIG": where.kubeconfig,
            "GPUQUEUE_START_TIMEOUT": "3600",
        }
        try:
            with Stage(**told) as stage:
                stage.dispatcher(QUEUE)
                stage.worker(WORKER, "threads", 4)
                eye = Eye(api, f"/apis/batch/v1/namespaces/{api.namespace}/jobs", b'"type":"ADDED"')
                sides = _Sides(stage, api, owner, eye)
                turns = alternate(
                    rounds,
                    *(sides.several(send, count) for send in (sides.ours, sides.peer, sides.bare)),
                )
                lasted = sides.burst(burst)
        finally:
            for each in (
                *api.list_jobs(selector(owner))[0],
                *api.list_jobs(selector(f"{owner}-peer"))[0],
            ):
                api.delete_job(each.metadata.name)
            where.close()
    ours, peer, bare = ([sides.kept[int(turn)] for turn in side] for side in turns)
    least = statistics.median(itertools.chain(*bare))
    figures = []
    for share in (0.5, 0.99):
        mine, theirs = (
            _sample(label, [[each - least for each in turn] for turn in side], share)
            for label, side in (("dispatcher", ours), ("worker that makes the Job", peer))
        )
        floor = _sample("bare POST (its p50 is taken off)", bare, share)
        figures.append(
            Figure(f"apply_async to POST, p{share * 100:g}", "ms", mine, (theirs,), floor)
        )
    last = Sample("dispatcher", tuple(lasted), percentile(lasted, 0.99))
    return [*figures, Figure(f"the same in a burst of {burst}, p99, nothing taken off", "ms", last)]


class _Sides:
    """The sides that create a Job, by its id, and the milliseconds of each turn of each side."""

    def __init__(self, stage: Stage, api: Api, owner: str, eye: Eye) -> None:
        self._stage, self._api, self._owner, self._eye = stage, api, owner, eye
        self.kept: list[list[float]] = []

    def ours(self) -> str:
        """Send a job as callers do."""
        return str(self._stage.app.send_task("bench.noop", queue=QUEUE, ignore_result=True).id)

    def peer(self) -> str:
        """Send a task that creates the Job."""
        manifest = self._manifest()
        self._stage.app.send_task(
            "bench.make_job", (self._api.namespace, manifest[1]), queue=WORKER, ignore_result=True
        )
        return manifest[0]

    def bare(self) -> str:
        """Send only the POST."""
        job_id, manifest = self._manifest()
        self._api.create_job(manifest)
        return job_id

    def _manifest(self) -> tuple[str, Manifest]:
        name = str(uuid.uuid4())
        record: Any = {
            "delivery": name,
            "id": name,
            "task": "bench.noop",
            "gpu_class": "t4",
            "isolation": "shared",
        }
        record |= {"attempt": 1, "token": name}
        # Another owner: the dispatcher does not follow it.
        common = ManifestContext(self._api.namespace, f"{self._owner}-peer")
        return name, attempt_manifest(record, GpuClass("t4", shared_slots=SLOTS), SETTINGS, common)

    def several(self, send: Callable[[], str], count: int) -> Callable[[], float]:
        """Run some of one side, one at a time; return the position of their milliseconds in
        ``kept``.
        """

        def turn() -> float:
            self.kept.append([self._one(send) for _ in range(count)])
            return len(self.kept) - 1

        return turn

    def _one(self, send: Callable[[], str]) -> float:
        begun = time.monotonic()
        job_id = send()
        return 1000 * (self._told(job_id) - begun)

    def burst(self, count: int) -> list[float]:
        """Send many jobs at once."""
        begun = {}
        for _ in range(count):
            at = time.monotonic()
            begun[self.ours()] = at
        return [1000 * (self._told(job_id) - at) for job_id, at in begun.items()]

    def _told(self, job_id: str) -> float:
        until(lambda: job_id in self._eye.seen, f"a Job of {job_id} is told", 30, 0.0005)
        return self._eye.seen[job_id]


def _sample(label: str, turns: list[list[float]], share: float) -> Sample:
    together = percentile([each for turn in turns for each in turn], share)
    return Sample(label, tuple(percentile(turn, share) for turn in turns), together)
