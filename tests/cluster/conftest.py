"""End to end on a real cluster: dispatchers are processes here, executors are pods there, one Redis is reached by both.

Nothing of it runs unless CLUSTER_IMAGE and KUBECONFIG are set: a developer's own cluster is never used by accident.

    KUBECONFIG           the cluster
    CLUSTER_IMAGE        an image with the executor and examples/cluster (examples/cluster/Dockerfile)
    CLUSTER_REDIS_URL    a Redis, as pods reach it
    CLUSTER_REDIS_URL_HERE   the same, as this machine reaches it (default: the same)
    CLUSTER_NAMESPACE    where (default: a new one, deleted afterwards)
    CLUSTER_RESOURCE     an extended resource that a node advertises at least twice (default: nvidia.com/gpu)
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from nodes import WorkerNode, until, worker_node

from gpuqueue.store.read import Reader

NEEDED = ("KUBECONFIG", "CLUSTER_IMAGE", "CLUSTER_REDIS_URL")
SECRET = "gpuqueue-test"
#: Seconds that anything may take there: pulls, scheduling and kubelets included.
PATIENCE = float(os.environ.get("CLUSTER_PATIENCE", "120"))
ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in NEEDED if not os.environ.get(name)]
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(3 * PATIENCE))
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"needs a cluster: {', '.join(missing)} not set"))


class Cluster:
    """A namespace with a Secret, and dispatchers of this machine that use it."""

    def __init__(self, directory: Path) -> None:
        from kubernetes import client, config

        config.load_kube_config()
        self.core, self.batch, self.policy = client.CoreV1Api(), client.BatchV1Api(), client.PolicyV1Api()
        self.directory = directory
        self.url = os.environ.get("CLUSTER_REDIS_URL_HERE") or os.environ["CLUSTER_REDIS_URL"]
        self.namespace = os.environ.get("CLUSTER_NAMESPACE") or f"gpuqueue-test-{secrets.token_hex(4)}"
        self.owns = "CLUSTER_NAMESPACE" not in os.environ
        if self.owns:
            self.core.create_namespace({"metadata": {"name": self.namespace}})
        there = base64.b64encode(os.environ["CLUSTER_REDIS_URL"].encode()).decode()
        secret: Any = {"metadata": {"name": SECRET}, "data": {"CELERY_BROKER_URL": there}}
        self.core.create_namespaced_secret(self.namespace, secret)
        self.client = redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=PATIENCE)
        self.reader = Reader(self.client)
        self.app = Celery("cluster", broker=self.url, backend=self.url, set_as_current=False)
        resource = os.environ.get("CLUSTER_RESOURCE", "nvidia.com/gpu")
        self.classes = directory / "classes.toml"
        self.classes.write_text(
            f'[classes.test]\nresource = "{resource}"\nshared_slots = 2\nexclusive_slots = 1\n'
            'cpu = "50m"\nhost_memory = "256Mi"\n'
            f'[classes.nowhere]\nresource = "{resource}"\nexclusive_slots = 1\nnode_selector = {{ "gpuqueue.io/no" = "node" }}\n'
        )
        self.env = {
            "CELERY_BROKER_URL": self.url,
            "GPU_EXECUTION_MODE": "k8s_job",
            "GPU_JOB_NAMESPACE": self.namespace,
            "GPU_OWNER": f"test-{secrets.token_hex(4)}",
            "GPU_EXECUTOR_IMAGE": os.environ["CLUSTER_IMAGE"],
            "GPU_SECRET_NAME": SECRET,
            "GPU_UNSCHEDULABLE_TIMEOUT": "5",
            "GPU_IMAGE_ERROR_GRACE": "5",
            "GPU_IMAGE_ALLOW": "*",
            "GPU_QUOTA_TIMEOUT": "5",
            "GPUQUEUE_APP": "examples.cluster.app",
            "GPUQUEUE_GRACE_SECONDS": "3",
            "GPUQUEUE_CLASSES_FILE": str(self.classes),
            "T4_SHARED_SLOTS": "0",
            "T4_EXCLUSIVE_SLOTS": "0",
        }
        self.workers: list[WorkerNode] = []

    def dispatcher(self, name: str) -> WorkerNode:
        """Start one."""
        node = worker_node(name, ["-A", "gpuqueue", "worker"], self.env, self.directory, self.app).start()
        self.workers.append(node)
        node.ready()
        return node

    def send(self, task: str, *args: Any, queue: str = "gpu.test.shared", **options: Any) -> Any:
        """Send a task of the application, or the built-in one."""
        name = task if task.startswith("gpuqueue.") else f"examples.cluster.app.{task}"
        return self.app.send_task(name, args, queue=queue, **options)

    def record(self, job_id: str) -> Any:
        """What the queue knows of a job."""
        return self.reader.find(job_id, ("test", "nowhere", "refused"))

    def in_state(self, job_id: str, *wanted: str) -> Any:
        """Wait until a job is there."""
        return until(lambda: (found := self.record(job_id)) and found["state"] in wanted and found, PATIENCE, f"{wanted}")

    def pod_of(self, job_id: str) -> str:
        """The name of the pod that runs a job."""
        job = self.in_state(job_id, "running")["instance"].split("/")[1]
        pods = self.core.list_namespaced_pod(self.namespace, label_selector=f"batch.kubernetes.io/job-name={job}")
        return str(pods.items[0].metadata.name)

    def idle(self) -> None:
        """Wait until nobody holds a slot."""
        until(lambda: not self.reader.holders("test"), PATIENCE, "all slots are free", lambda: str(self.reader.holders("test")))

    def close(self) -> None:
        """Leave nothing behind."""
        for worker in self.workers:
            worker.stop()
        selector = f"gpuqueue.io/owner={self.env['GPU_OWNER']}"
        for job in self.batch.list_namespaced_job(self.namespace, label_selector=selector).items:
            self.batch.delete_namespaced_job(job.metadata.name, self.namespace, propagation_policy="Background")
        self.core.delete_namespaced_secret(SECRET, self.namespace)
        if self.owns:
            self.core.delete_namespace(self.namespace)
        for key in self.client.scan_iter("gpuqueue:1:*"):
            self.client.delete(key)
        self.client.close()


@pytest.fixture(scope="session")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One namespace and one dispatcher for all."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.dispatcher("first")
        yield made
    finally:
        made.close()
