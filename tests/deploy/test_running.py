"""Dispatchers run jobs on the double of Kubernetes with the commands, settings and rights of the
manifests.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from gpuqueue.dev.embedded_redis import EmbeddedRedis, find_server
from tests.deploy.metrics import METRICS
from tests.deploy.rendering import Object, Objects, render, settings_of
from tests.deploy.test_settings import files
from tests.deploy.tools import call
from tests.doubles.kubernetes import Cluster, Image, Node
from tests.doubles.kubernetes.objects.kinds import QUOTAS, SERVICE_ACCOUNTS
from tests.support.command_line import run_command
from tests.support.endpoints import Endpoint, free_port
from tests.support.forking import start_forked
from tests.support.nodes import APPS
from tests.support.stack import load_application
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

SLICED = Node(
    "sliced", {"nvidia.com/device-plugin.config": "tesla-t4"}, resources={"nvidia.com/gpu": "8"}
)
CUT = Node("cut", {"nvidia.com/mig.config": "all-1g.5gb"}, resources={"nvidia.com/mig-1g.5gb": "7"})
WHOLE = Node("whole", {}, resources={"nvidia.com/gpu": "2"})
BARE = Node("bare", {}, resources={})


@pytest.fixture(scope="module")
def redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture(scope="module")
def shop(redis: EmbeddedRedis) -> Iterator[ModuleType]:
    found = load_application("shop", redis.url)
    yield found
    found.app.close()


class Dispatcher:
    """The container of a dispatcher pod as a process, with its environment and service account."""

    def __init__(
        self, found: Objects, workload: str, cluster: Cluster, url: str, folder: Path
    ) -> None:
        pod = dict(found.pods())[workload]
        (container,) = pod["spec"]["containers"]
        laid = files(found, pod, folder)
        told = {name: laid.get(text, text) for name, text in settings_of(found, pod).items()}
        (role,) = found.of("Role")
        token = cluster.user(
            "system:serviceaccount:mlops-saas:gpu-job-launcher",
            role["rules"],
            [role["metadata"]["namespace"]],
            [rule for each in found.of("ClusterRole") for rule in each["rules"]],
        )
        self.env = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            # In a pod, both come from the service account.
            "KUBECONFIG": str(cluster.kubeconfig_for(token, namespace_of(found, workload))),
            "CELERY_BROKER_URL": url,
            **told,
        }
        (port,) = container["ports"]
        assert told["GPUQUEUE_METRICS_PORT"] == str(port["containerPort"]), (
            "the port that is served is the one that is probed"
        )
        self.endpoint = Endpoint(
            free_port()
        )  # the port of the manifests can be in use on this machine
        self.env["GPUQUEUE_METRICS_PORT"] = str(self.endpoint.port)
        self.probes = {
            kind: container[f"{kind}Probe"]["httpGet"]["path"]
            for kind in ("startup", "liveness", "readiness")
        }
        self.log = folder / f"{workload}.log"
        command = [*container["command"], *container["args"]]
        with self.log.open("wb") as log:
            output = log.fileno(), log.fileno()
            self.process = start_forked(
                command[0], command[1:], env=self.env, cwd=folder, output=output
            )
        self.grace = pod["spec"]["terminationGracePeriodSeconds"]

    def ready(self) -> None:
        """Wait until its probes report that it has started and is ready, as a kubelet does."""

        def said() -> bool:
            return self.probe("startup") and self.probe("readiness")

        until(
            lambda: said() or self.process.poll() is not None,
            PATIENCE,
            "it is ready",
            self.log.read_text,
        )
        assert self.process.poll() is None, self.log.read_text()
        assert self.probe("liveness")

    def probe(self, kind: str) -> bool:
        try:
            return self.endpoint.ask(self.probes[kind])[0] == 200
        except OSError:
            return False

    def doctor(self) -> subprocess.CompletedProcess[str]:
        """Run ``gpuqueue doctor`` beside it, as ``kubectl exec`` does."""
        return run_command(["doctor"], env=self.env, timeout=PATIENCE)

    def end(self) -> int:
        """Stop it as a kubelet does."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(self.grace)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)


def pod_of(cluster: Cluster, job: Object) -> Object:
    pod = cluster.pod_of(job["metadata"]["name"])
    assert pod is not None
    return pod


def namespace_of(found: Objects, workload: str) -> str:
    name: str = found.one("Deployment", workload)["metadata"]["namespace"]
    return name


def a_cluster(found: Objects, folder: Path, url: str, nodes: list[Node]) -> Cluster:
    """Return a cluster in the state after step 6 of docs/operate/deploy.md."""
    made = Cluster(folder / "cluster", pace=0.02, bookmarks=1.0, nodes=nodes)
    namespace = found.of("Role")[0]["metadata"]["namespace"]
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    made.add_namespace(namespace, labels)
    made.namespace = namespace
    for each in found.of("ServiceAccount", "ResourceQuota"):
        made.create(
            {"ServiceAccount": SERVICE_ACCOUNTS, "ResourceQuota": QUOTAS}[each["kind"]],
            each,
            namespace,
        )
    secret = found.one("ConfigMap", next(each for each in names(found) if "settings" in each))[
        "data"
    ]["GPU_SECRET_NAME"]
    made.secret(secret, {"CELERY_BROKER_URL": url}, namespace)
    made.images["registry.example/shop:1"] = Image(
        env={"PYTHONPATH": str(APPS), "GPUQUEUE_APP": "shop"}, cwd=str(folder)
    )
    return made


def names(found: Objects) -> list[str]:
    return [each["metadata"]["name"] for each in found.of("ConfigMap")]


def slow(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("source", "name", "workload", "queue", "nodes", "node"),
    [
        (
            "overlay",
            "production",
            "gpu-dispatcher-t4",
            "gpu.t4.shared",
            [WHOLE, SLICED, CUT],
            "sliced",
        ),
        ("overlay", "dev", "gpu-dispatcher-mig", "gpu.mig-1g.5gb", [BARE], "bare"),
        slow("overlay", "production", "gpu-dispatcher-mig", "gpu.mig", [WHOLE, SLICED, CUT], "cut"),
        slow("chart", "dev", "gpu-dispatcher-t4", "gpu.t4.exclusive", [BARE], "bare"),
    ],
    ids=[
        "T4 in production",
        "MIG in development",
        "MIG in production",
        "T4 in development, by the chart",
    ],
)
def test_a_job_runs_where_it_should_with_the_rights_that_dispatchers_have(
    source: str,
    name: str,
    workload: str,
    queue: str,
    nodes: list[Node],
    node: str,
    redis: EmbeddedRedis,
    shop: ModuleType,
    tmp_path: Path,
) -> None:
    found = render(source, name)
    with a_cluster(found, tmp_path, redis.url, nodes) as cluster:
        dispatcher = Dispatcher(found, workload, cluster, redis.url, tmp_path)
        try:
            dispatcher.ready()
            result = shop.gpu_double.apply_async((21,), queue=queue, time_limit=60)
            assert result.get(timeout=PATIENCE) == 42
            (job,) = cluster.jobs()
            pod = pod_of(cluster, job)
            assert pod["spec"]["nodeName"] == node
            cluster.until(lambda: pod_of(cluster, job)["status"]["phase"] == "Succeeded", PATIENCE)
            until(
                lambda: cluster.requests["get", "pods/log"].count,
                PATIENCE,
                "its log is kept",
                dispatcher.log.read_text,
            )
            asked = {key: tally.codes for key, tally in cluster.requests.items().items()}
            refused = [key for key, codes in asked.items() if {401, 403} & set(codes)]
            assert set(refused) <= {("get", "namespaces")}, "the UID of kube-system is optional"
            told = dispatcher.endpoint.metrics()
            gpu_class = job["metadata"]["labels"]["gpuqueue.io/class"]
            assert told("gpuqueue_launches_total", gpu_class=gpu_class, outcome="launched") == 1
            assert (
                told("gpuqueue_watcher_leads"),
                told("gpuqueue_watcher_blind"),
                told("gpuqueue_state_up"),
            ) == (1, 0, 1)
            assert {sample for sample, _ in told.samples if sample.startswith("gpuqueue_")} <= set(
                METRICS
            )
            checked = call("promtool", "check", "metrics", text=told.text)
            assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
            seen = dispatcher.doctor()
            assert (seen.returncode, "FAIL" in seen.stdout) == (0, False), seen.stdout + seen.stderr
            assert dispatcher.end() == 0
        finally:
            dispatcher.kill()


# -- redis -----------------------------------------------------------------------------------------


def test_the_built_in_redis_starts_with_its_arguments(tmp_path: Path) -> None:
    (container,) = dict(render("chart", "trial").pods())["gpu-gpuqueue-redis"]["spec"]["containers"]
    words = [
        word.replace("$(REDISCLI_AUTH)", "not-a-real-password").replace("/data", str(tmp_path))
        for word in container["args"]
    ]
    socket_path = tmp_path / "redis.sock"
    server = subprocess.Popen(
        [find_server(), *words, "--port", "0", "--unixsocket", str(socket_path)],
        stdout=subprocess.DEVNULL,
    )
    client = Redis(
        unix_socket_path=str(socket_path), password="not-a-real-password", decode_responses=True
    )
    try:
        until(socket_path.exists, PATIENCE, "it listens")
        for name, value in {"maxmemory-policy": "noeviction", "appendonly": "yes"}.items():
            assert client.config_get(name) == {name: value}
        with pytest.raises(AuthenticationError):
            Redis(unix_socket_path=str(socket_path)).ping()
    finally:
        client.close()
        server.terminate()
        server.wait(PATIENCE)


# -- flower ----------------------------------------------------------------------------------------


def test_flower_answers_its_probes_and_shows_nothing_to_strangers(
    redis: EmbeddedRedis, tmp_path: Path
) -> None:
    found = render("chart", "everything")
    (container,) = dict(found.pods())["gpu-gpuqueue-flower"]["spec"]["containers"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "flower.log"
    command = [*container["command"], f"--port={port}"]
    with log.open("wb") as file:
        flower = start_forked(
            command[0],
            command[1:],
            env={
                "PATH": os.environ["PATH"],
                "CELERY_BROKER_URL": redis.url,
                # From the Secret.
                "FLOWER_BASIC_AUTH": "me:not-a-real-password",
                **settings_of(found, dict(found.pods())["gpu-gpuqueue-flower"]),
            },
            cwd=tmp_path,
            output=(file.fileno(), file.fileno()),
        )

    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}{path}", timeout=PATIENCE
            ) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as exc:
            return exc.code
        except OSError:
            return 0

    try:
        probe = container["readinessProbe"]["httpGet"]["path"]
        until(lambda: status(probe) == 200, PATIENCE, "it answers its probe", log.read_text)
        assert status("/flower/tasks") == 401
        assert status("/flower/api/tasks") == 401
        flower.send_signal(signal.SIGTERM)
        assert flower.wait(PATIENCE) == 0
    finally:
        flower.kill()
        flower.wait(PATIENCE)
