"""A namespace of a real cluster with what the tests need in it, and processes of this machine that
use it.
"""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from kubernetes import client, config

from gpuqueue.model.kube_syntax import amount
from gpuqueue.store.reader import Reader
from tests.cluster import redis_pod
from tests.cluster.answers import raw
from tests.support.nodes import WorkerNode, worker_node
from tests.support.waiting import until

#: Seconds that anything may take there: pulls, scheduling and kubelets included.
PATIENCE = float(os.environ.get("CLUSTER_PATIENCE") or 120)
ROOT = Path(__file__).parents[2]
APP = "examples.cluster.app"
#: As long as a scheduler may need to see that a pod has left a node, as short as one likes to wait
#: in a test.
CLOCKS = {
    "GPU_UNSCHEDULABLE_TIMEOUT": "15",
    "GPU_IMAGE_ERROR_GRACE": "5",
    "GPU_QUOTA_TIMEOUT": "10",
    "GPUQUEUE_GRACE_SECONDS": "3",
}


class RealCluster:
    """One namespace, one Redis, one Secret. What it makes is called ``name``, and :meth:`close`
    takes it away again.
    """

    def __init__(self, directory: Path) -> None:
        config.load_kube_config(os.environ["KUBECONFIG"])
        self.core, self.batch = client.CoreV1Api(), client.BatchV1Api()
        self.directory = directory
        self.name = f"gpuqueue-test-{secrets.token_hex(4)}"
        self.namespace = os.environ.get("CLUSTER_NAMESPACE") or self.name
        self.image = os.environ["CLUSTER_IMAGE"]
        self.runtime_handler = os.environ.get("CLUSTER_RUNTIME_HANDLER") or "runc"
        self.resource = os.environ.get("CLUSTER_RESOURCE") or "nvidia.com/gpu"
        self.workers: list[WorkerNode] = []
        #: The classes of its dispatchers, and the owners of their Jobs.
        self.classes, self.owners = ["refused"], {self.name}
        self._undo = ExitStack()
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        slots = min(2, shares(self.core, self.resource))
        if self.namespace == self.name:
            restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
            raw(
                self.core.create_namespace,
                {"metadata": {"name": self.namespace, "labels": restricted}},
            )
            self._undo.callback(raw, self.core.delete_namespace, self.namespace)
        if inside := os.environ.get("CLUSTER_REDIS_URL"):
            self.url = os.environ.get("CLUSTER_REDIS_URL_HERE") or inside
        else:
            inside, self.url = redis_pod.start(
                self.core, self.namespace, self.name, self._undo, PATIENCE
            )
        self.client = redis.Redis.from_url(
            self.url, decode_responses=True, socket_timeout=PATIENCE + 10
        )
        self._undo.callback(self.client.close)
        if keys := self.client.dbsize():
            raise RuntimeError(
                f"CLUSTER_REDIS_URL: its database has {keys} keys, and the tests empty it; name one"
                " that is empty"
            )
        self._undo.callback(self.client.flushdb)
        data = {"CELERY_BROKER_URL": base64.b64encode(inside.encode()).decode()}
        raw(
            self.core.create_namespaced_secret,
            self.namespace,
            {"metadata": {"name": self.name}, "data": data},
        )
        self._undo.callback(raw, self.core.delete_namespaced_secret, self.name, self.namespace)
        self.reader = Reader(self.client)
        self.app = Celery("cluster", broker=self.url, backend=self.url, set_as_current=False)
        self._undo.callback(self.app.close)
        self.env = CLOCKS | {
            "CELERY_BROKER_URL": self.url,
            "GPU_EXECUTION_MODE": "k8s_job",
            "GPU_JOB_NAMESPACE": self.namespace,
            "GPU_EXECUTOR_IMAGE": self.image,
            "GPU_SECRET_NAME": self.name,
            "GPU_IMAGE_ALLOW": "*",
            "GPUQUEUE_APP": APP,
            "PYTHONPATH": str(ROOT),
            "T4_SHARED_SLOTS": "0",
            "T4_EXCLUSIVE_SLOTS": "0",
            **self.owning(
                "test",
                f'shared_slots = {slots}\nexclusive_slots = 1\ncpu = "50m"\nhost_memory = "256Mi"',
            ),
        }

    def owning(self, name: str, text: str) -> dict[str, str]:
        """Settings of a dispatcher with one class, given as TOML, and with separate Jobs."""
        self.classes.append(name)
        self.owners.add(f"{self.name}-{name}")
        file = self.directory / f"{name}.toml"
        file.write_text(f'[classes.{name}]\nresource = "{self.resource}"\n{text}\n')
        return {"GPUQUEUE_CLASSES_FILE": str(file), "GPU_OWNER": f"{self.name}-{name}"}

    # -- processes here ----------------------------------------------------------------------------

    def dispatcher(
        self, name: str, env: dict[str, str] | None = None, without: str = ""
    ) -> WorkerNode:
        """Start one; without a setting, if it is named."""
        told = self.env | (env or {})
        told.pop(without, None)
        return self._start(name, ["-A", "gpuqueue", "worker"], told)

    def cpu_worker(self, name: str) -> WorkerNode:
        """Start the application's own worker, plain Celery."""
        return self._start(
            name,
            ["-A", APP, "worker", "-Q", "celery", "-c", "1"],
            self.env | {"CELERY_RESULT_BACKEND": self.url},
        )

    def _start(self, name: str, arguments: list[str], env: dict[str, str]) -> WorkerNode:
        node = worker_node(name, arguments, env, self.directory, self.app)
        self.workers.append(node.start())
        node.ready()
        return node

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``gpuqueue`` with a dispatcher's settings."""
        command = [sys.executable, "-m", "gpuqueue.cli", *arguments]
        return subprocess.run(
            command,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    # -- jobs --------------------------------------------------------------------------------------

    def send(self, task: str, *args: Any, queue: str = "gpu.test.shared", **options: Any) -> Any:
        """Send a task of the application."""
        return self.signature(task, *args, queue=queue).apply_async(**options)

    def signature(
        self, task: str, *args: Any, queue: str = "gpu.test.shared", **kwargs: Any
    ) -> Any:
        """A task of the application, to be sent there."""
        return self.app.signature(f"{APP}.{task}", args, kwargs, queue=queue)

    def run(self, program: str) -> Any:
        """Send a container job that runs some Python."""
        call = {"image": self.image, "command": ["python3", "-c", program]}
        return self.app.send_task("gpuqueue.run", kwargs=call, queue="gpu.test.shared")

    def record(self, job_id: str) -> Any:
        """What the queue knows of a job."""
        return self.reader.find(job_id, self.classes)

    def in_state(self, job_id: str, *wanted: str) -> Any:
        """Wait until a job is there."""
        return until(
            lambda: (found := self.record(job_id)) and found["state"] in wanted and found,
            PATIENCE,
            f"{job_id} is {' or '.join(wanted)}",
            lambda: f"{self.record(job_id)}\n{self.workers[-1].logs()}",
        )

    def job_of(self, job_id: str) -> str:
        """The name of the Job of a job that runs."""
        return str(self.in_state(job_id, "running")["instance"].split("/")[1])

    def pod_of(self, job_id: str) -> str:
        """The name of the pod that runs a job."""
        selector = f"batch.kubernetes.io/job-name={self.job_of(job_id)}"
        return str(
            raw(self.core.list_namespaced_pod, self.namespace, label_selector=selector)["items"][
                -1
            ]["metadata"]["name"]
        )

    def idle(self) -> None:
        """Wait until no job holds a slot."""
        until(
            lambda: not self.reader.holders("test"),
            PATIENCE,
            "all slots are free",
            lambda: str(self.reader.holders("test")),
        )

    # -- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave nothing behind, even after a failure."""
        with self._undo:
            self._undo.callback(self._delete_jobs)
            for worker in self.workers:
                self._undo.callback(worker.stop)

    def _delete_jobs(self) -> None:
        owners = ",".join(sorted(self.owners))
        selector = f"gpuqueue.io/owner in ({owners})"
        for job in raw(self.batch.list_namespaced_job, self.namespace, label_selector=selector)[
            "items"
        ]:
            raw(
                self.batch.delete_namespaced_job,
                job["metadata"]["name"],
                self.namespace,
                propagation_policy="Background",
            )


def shares(core: Any, resource: str) -> int:
    """How many of a resource all nodes advertise; 1 where nodes may not be listed.

    Raises :class:`RuntimeError` where there is none.
    """
    try:
        nodes = raw(core.list_node)["items"]
    except client.ApiException as exc:
        if exc.status != 403:
            raise
        return 1
    found = sum(
        int(amount(node["status"].get("allocatable", {}).get(resource)) or 0) for node in nodes
    )
    if not found:
        patch = f'{{"status": {{"capacity": {{"{resource}": "2"}}}}}}'
        raise RuntimeError(
            f"no node advertises {resource}: name another in CLUSTER_RESOURCE, or have one"
            " advertised: kubectl patch node NODE --subresource=status --type=merge --patch"
            f" '{patch}'"
        )
    return found
