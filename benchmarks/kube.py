"""The stage of the Kubernetes benchmarks: the double of the API server in a separate process, and a
dispatcher in this one.

Containers are timers of the double: the figures cover gpuqueue and the API, not the start of
Python. The benchmark writes what an executor would report to Redis right after its Job is created.
The dispatcher has no Celery consumer; its watcher, launcher and follower are the real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.parts import Parts
from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.class_turns import ClassTurns
from gpuqueue.dispatcher.class_workers import ClassWorkers
from gpuqueue.dispatcher.leadership import Leadership
from gpuqueue.dispatcher.stop import Stopper
from gpuqueue.dispatcher.unserved import Unserved
from gpuqueue.dispatcher.watch import Watcher, WatchIntervals
from gpuqueue.launchers.base import Launcher, Observations, OnEnd
from gpuqueue.launchers.kubernetes.api.client import Api
from gpuqueue.launchers.kubernetes.api.objects import Job
from gpuqueue.launchers.kubernetes.launcher import KubernetesLauncher
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.names import instance_of
from gpuqueue.model.attempt import Attempt
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.steps import Steps
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.client import Redis, connect
from gpuqueue.store.lease import Lease
from gpuqueue.store.turn import Turns
from tests.doubles.kubernetes.nodes.scripted import SECONDS

IMAGE = os.environ.get("BENCH_IMAGE", "bench:1")
SETTINGS = ClusterSettings(executor_image=IMAGE, image_allow="*")
#: Seconds that the double adds to each request, for a round trip to an API server that stores the
#: object.
LATENCY = 0.005
#: Jobs per batch of preloading.
_AT_ONCE = 500


class Double:
    """A cluster in a separate process.

    Args:
        pace, latency, nodes, gpus: see ``python -m tests.doubles.kubernetes --help``.
        broker: what its Secret says.
        image_env: the environment of the image. With it, containers are processes, not timers.
    """

    def __init__(
        self,
        directory: Path,
        *,
        pace: float,
        latency: float = LATENCY,
        nodes: int = 1,
        gpus: int = 8,
        broker: str = "redis://nowhere/0",
        image_env: Mapping[str, str] | None = None,
    ) -> None:
        options = ["--pace", str(pace), "--latency", str(latency), "--image", IMAGE, "--no-events"]
        options += [] if image_env else ["--scripted"]
        options += ["--nodes", str(nodes), "--gpus", str(gpus)]
        command = [
            sys.executable,
            "-m",
            "tests.doubles.kubernetes",
            "--directory",
            str(directory),
            *options,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self.kubeconfig = self._process.stdout.readline().strip()
        self._control = self._process.stdout.readline().strip()
        api = self.api()
        secret = {
            "metadata": {"name": SETTINGS.secret_name},
            "stringData": {"CELERY_BROKER_URL": broker},
        }
        headers = {"Authorization": token_of(api), "Content-Type": "application/json"}
        path = f"{api.server}/api/v1/namespaces/{api.namespace}/secrets"
        urllib.request.urlopen(
            urllib.request.Request(path, json.dumps(secret).encode(), headers)
        ).close()
        if image_env:
            self._control_by("image", {"name": IMAGE, "env": image_env})

    def _control_by(self, fault: str, arguments: Mapping[str, Any]) -> None:
        body = json.dumps(arguments).encode()
        url = f"{self._control.rstrip('/')}/{fault}"
        urllib.request.urlopen(
            urllib.request.Request(url, body, {"Content-Type": "application/json"})
        ).close()

    def api(self, kind: type[Api] = Api) -> Any:
        """A client of it."""
        os.environ["KUBECONFIG"] = self.kubeconfig
        try:
            return kind(SETTINGS)
        finally:
            del os.environ["KUBECONFIG"]

    def requests(self) -> Any:
        """Return the requests so far from its control API."""
        with urllib.request.urlopen(f"{self._control.rstrip('/')}/requests") as answer:
            return json.load(answer)["result"]

    def preload(self, jobs: Iterable[Mapping[str, Any]]) -> None:
        """Store Jobs, each with a pod that runs forever."""
        left = iter(jobs)
        while some := list(islice(left, _AT_ONCE)):
            self._control_by("preload", {"jobs": some})

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)


class Real:
    """The cluster of KUBECONFIG, in the namespace of its context. BENCH_IMAGE must contain
    ``sleep``; classes use nvidia.com/gpu.
    """

    def __init__(self) -> None:
        self.kubeconfig = os.environ["KUBECONFIG"]

    def api(self, kind: type[Api] = Api) -> Any:
        """A client of it."""
        return kind(SETTINGS)

    def close(self) -> None:
        """Do nothing: the cluster continues to exist."""


def cluster(directory: Path, **options: Any) -> Double | Real:
    """Return the cluster to measure: the double, or with BENCH_KUBERNETES=1 that of KUBECONFIG."""
    return Real() if os.environ.get("BENCH_KUBERNETES") == "1" else Double(directory, **options)


class TimedApi(Api):
    """Records when each Job is requested, and lets its container run for a given time: a timer or
    ``sleep``.
    """

    posted: dict[str, float]
    names: dict[str, str]
    seconds: dict[str, float]
    redis: Redis
    asleep: bool
    unreported: list[tuple[float, Attempt, str]] | None = None
    """None: the end of an attempt is reported at once. Else: (about when it ends in
    Unix seconds, the attempt, its token), for the caller to report.
    """

    def create_job(self, manifest: Mapping[str, Any], dry_run: bool = False) -> Job:
        made: Any = manifest
        record = json.loads(made["metadata"]["annotations"]["gpuqueue.io/record"])
        job_id = record["id"]
        template, lasts = made["spec"]["template"], str(self.seconds.get(job_id, 0.0))
        template["metadata"]["annotations"][SECONDS] = lasts
        if self.asleep:  # the image is not an executor image, and there is no Secret for it
            template["spec"]["containers"][0] |= {"command": ["sleep", lasts], "env": []}
        self.names[job_id] = made["metadata"]["name"]
        self.posted.setdefault(job_id, time.monotonic())
        job = super().create_job(made, dry_run)
        if not record.get("container"):
            executor = ExecutorAttempt(self.redis, Attempt.of(record), record["token"])
            executor.claim(instance_of(self.namespace, made["metadata"]["name"]), "bench")
            if self.unreported is None:
                report(executor)
            else:
                self.unreported.append(
                    (time.time() + float(lasts), Attempt.of(record), record["token"])
                )
        return job


def report(executor: ExecutorAttempt) -> None:
    """Write the end of an attempt, as its executor would."""
    executor.report("SUCCEEDED")
    executor.reported(3600)


class Dispatching:
    """A dispatcher with given classes and its watcher, on one cluster. ``owner`` is the owner of
    its Jobs.
    """

    owner = f"bench-{uuid.uuid4().hex[:8]}"

    def __init__(self, stage: Stage, where: Double | Real, classes: Mapping[str, GpuClass]) -> None:
        self.api: TimedApi = where.api(TimedApi)
        self.api.posted, self.api.names, self.api.seconds = {}, {}, {}
        self.api.redis, self.api.asleep = stage.client, isinstance(where, Real)
        self._app = stage.app
        self.reader = stage.reader
        common = ManifestContext(self.api.namespace, self.owner)

        def make(on_end: OnEnd, observations: Observations) -> Launcher:
            return KubernetesLauncher(self.api, SETTINGS, common, classes, on_end, observations)

        self.parts = parts = Parts(stage, classes, make, self.owner)
        steps = Steps()
        stopper = Stopper(stage.reader, parts.launcher, 10.0)
        lease = Lease(stage.client, "bench", 3, "bench")
        self.watcher = Watcher(
            client=stage.client,
            waiting=connect(stage.url(), timeout=15),
            line=parts.line,
            classes=classes,
            shown=parts.shown,
            lease=lease,
            leadership=Leadership(lease, parts.launcher, 1.0),
            launcher=parts.launcher,
            turns=ClassTurns(
                Turns(stage.client, parts.line),
                classes,
                parts.slots,
                stopper,
                parts.finisher,
                steps,
                1.0,
                5.0,
            ),
            stopper=stopper,
            repair=parts.repair,
            unserved=Unserved(
                stage.client, parts.line, stage.reader, classes, stopper, parts.finisher, 30.0
            ),
            workers=ClassWorkers(stage.client, classes, lease, lambda event: None, 2.0),
            states=parts.states,
            intervals=WatchIntervals(),
            steps=steps,
        )
        self.watcher.start()

    def submit(self, queue: str, job_id: str, seconds: float) -> None:
        """Accept a job as a consumer would."""
        self.api.seconds[job_id] = seconds
        headers = {"id": job_id, "task": "bench.train", "lang": "py", "ignore_result": True}
        packed = {
            "headers": headers,
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "properties": {},
            "delivery_info": {"exchange": queue, "routing_key": queue},
            "body": json.dumps([[], {}, {}]),
        }
        self.parts.accept(packed)

    def close(self) -> None:
        """End its threads, and delete its Jobs."""
        self.watcher.stop()
        self.parts.close()
        for name in self.api.names.values():
            self.api.delete_job(name)


def token_of(api: Api) -> str:
    """Return the value of its Authorization header."""
    headers = {name.lower(): value for name, value in api._headers().items()}
    return str(headers["authorization"])
