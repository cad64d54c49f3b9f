"""Where a stack's attempts run: as processes of their dispatcher, or as Jobs of the cluster's
double.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil

from gpuqueue.model.record import Record
from tests.doubles.kubernetes import Cluster, Image
from tests.support.nodes import APPS, executors_of
from tests.support.selection import has_warm_pods

LOCAL, KUBERNETES = "local", "kubernetes"
#: The image of the application under test, as the double knows it.
IMAGE = "shop:1"
#: Kubelets and controllers of the double are this much faster than those of the recordings.
PACE = 0.02


class LocalLaunching:
    """Dispatchers start processes."""

    kind = LOCAL

    def __init__(self, url: str) -> None:
        self._url = url

    def env(self) -> dict[str, str]:
        """What dispatchers are told."""
        return {"GPUQUEUE_DEVICES": "none"}

    def told(self, env: dict[str, str]) -> None:
        """What a dispatcher is told, its executors inherit."""

    def close(self) -> None:
        """Nothing runs but processes, which the stack ends."""


#: How variables begin that applications of tests read.
SETTINGS = ("CRASHSHOP_", "PARCELS_", "HABITS_")


class ClusterLaunching:
    """Dispatchers make Jobs in their own cluster."""

    kind = KUBERNETES

    def __init__(self, directory: Path, url: str, env: dict[str, str], **options: Any) -> None:
        self.cluster = Cluster(directory / "cluster", **{"pace": PACE, "bookmarks": 1.0} | options)
        self.cluster.__enter__()
        self._directory = directory
        path = os.pathsep.join(filter(None, [str(APPS), env.get("PYTHONPATH", "")]))
        self._image_env = {
            "PYTHONPATH": path,
            **{name: env[name] for name in env if name.startswith(SETTINGS)},
        }
        self.told({})
        self.cluster.secret("gpuqueue", {"CELERY_BROKER_URL": url})

    def env(self) -> dict[str, str]:
        """What dispatchers are told."""
        warm = {"GPUQUEUE_WARM_SECONDS": "20"} if has_warm_pods() else {}
        return warm | {
            "GPU_EXECUTION_MODE": "k8s_job",
            "KUBECONFIG": str(self.cluster.kubeconfig),
            "GPU_EXECUTOR_IMAGE": IMAGE,
            "GPU_WATCH_SILENCE_SECONDS": "5",
        }

    def told(self, env: dict[str, str]) -> None:
        """Put what an executor must know of a test into its image: pods inherit nothing."""
        crash = {name: env[name] for name in ("CRASH_AT", "CRASH_MARK") if name in env}
        self.cluster.images[IMAGE] = Image(env=self._image_env | crash, cwd=str(self._directory))

    def close(self) -> None:
        """End the cluster, its pods included."""
        self.cluster.__exit__(None, None, None)


Launching = LocalLaunching | ClusterLaunching


def process_of(url: str, record: Record) -> psutil.Process:
    """Return the process that runs a job's newest attempt, wherever it was started."""
    for process in executors_of(url):
        try:
            env = process.environ()
        except psutil.NoSuchProcess:  # it has ended since
            continue
        if env.get("GPUQUEUE_DELIVERY") == record["delivery"] and env.get(
            "GPUQUEUE_ATTEMPT"
        ) == str(record["attempt"]):
            return process
    raise LookupError(f"no process of {record['delivery']} attempt {record['attempt']}")
