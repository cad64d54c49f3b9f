"""A stack whose attempts are Jobs of the double of Kubernetes, with quick clocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpuqueue.model.attempt import Attempt
from gpuqueue.store.logs import Logs
from tests.support.launching import KUBERNETES
from tests.support.stack import Stack

#: Clocks short enough to run out in a test.
QUICK = {
    "GPUQUEUE_REPAIR_SECONDS": "1",
    "GPUQUEUE_RELIST_SECONDS": "0.5",
    "GPUQUEUE_TICK_SECONDS": "0.2",
    "GPUQUEUE_LEASE_SECONDS": "1",
    "GPUQUEUE_VISIBILITY_SECONDS": "2",
    "GPUQUEUE_GRACE_SECONDS": "1",
    "GPUQUEUE_FINISH_SECONDS": "2",
    "GPU_UNSCHEDULABLE_TIMEOUT": "2",
    "GPU_IMAGE_PULL_TIMEOUT": "4",
    "GPU_IMAGE_ERROR_GRACE": "1",
    "GPU_CONFIG_ERROR_GRACE": "1",
    "GPU_QUOTA_TIMEOUT": "3",
    "GPU_LAUNCH_TIMEOUT": "8",
    "GPU_TERMINATING_TIMEOUT": "1",
    "GPU_NODE_SILENT_SECONDS": "3",
    "GPU_API_TIMEOUT": "2",
    "GPU_IMAGE_ALLOW": "*",
}


class ClusterStack(Stack):
    """A stack in a cluster, with quick clocks."""

    def __init__(self, directory: Path, env: dict[str, str] | None = None, **cluster: Any) -> None:
        super().__init__(directory, QUICK | (env or {}), kind=KUBERNETES, **cluster)

    def pod_of(self, job_id: str) -> dict[str, Any]:
        """The pod of a job's newest attempt."""
        pod = self.cluster.pod_of(self.known(job_id)["instance"].split("/")[1])
        assert pod is not None
        return pod

    def log_of(self, record: Any) -> str | None:
        """What is kept of a job's log."""
        return Logs(self.client).read(Attempt.of(record))

    def pod_name(self, job_id: str) -> str:
        """Its name."""
        name: str = self.pod_of(job_id)["metadata"]["name"]
        return name
