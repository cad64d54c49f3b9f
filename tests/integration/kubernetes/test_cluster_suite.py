"""The tests for a real cluster, run against the double: what they take for granted is what the
double is given.

Three things of a real cluster are done for them here: a service account has its rights, what eats
memory is killed, and a Redis is there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from kubernetes import client

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.launchers.kubernetes.api.access import DISPATCHER
from tests.cluster import redis_pod, rights
from tests.cluster.answers import raw
from tests.doubles.kubernetes import Cluster, Image, Node
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.kinds import (
    JOBS,
    NAMESPACES,
    PODS,
    QUOTAS,
    SECRETS,
    SERVICE_ACCOUNTS,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]
ROOT = Path(__file__).parents[3]
PARTS = ("test_end_to_end.py", "test_limits.py", "test_bad_days.py", "test_held.py")
IMAGE, SPACE, ACCOUNT = "cluster-test:1", "shared-with-others", "dispatcher"


def suite(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it with these variables, and with none that say of another cluster."""
    usual = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CLUSTER_") and name != "KUBECONFIG"
    }
    run = [sys.executable, "-m", "pytest", "-q", "tests/cluster", *arguments]
    return subprocess.run(
        run, cwd=ROOT, env=usual | env, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    # Every node has disk, and every kubelet tells how much.
    node = Node(resources={"nvidia.com/gpu": "8", "ephemeral-storage": "100Gi"})
    with Cluster(tmp_path / "cluster", pace=0.05, namespace=SPACE, nodes=[node]) as made:
        made.images[IMAGE] = Image(env={"PYTHONPATH": str(ROOT)}, cwd=str(ROOT))
        yield made


@pytest.fixture
def env(cluster: Cluster, tmp_path: Path) -> Iterator[dict[str, str]]:
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield {
            "KUBECONFIG": str(cluster.kubeconfig),
            "CLUSTER_IMAGE": IMAGE,
            "CLUSTER_REDIS_URL": server.url,
            "CLUSTER_PATIENCE": "40",
        }


@contextmanager
def memory_limits(cluster: Cluster) -> Iterator[None]:
    """Kill what says that it eats: a process of this machine has no limit."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for pod in cluster.pods(SPACE):
                if pod["status"].get("phase") == "Running" and "eating" in cluster.log(
                    pod["metadata"]["name"]
                ):
                    try:
                        cluster.faults.oom_kill(pod["metadata"]["name"])
                    except (KeyError, Refused):
                        continue  # ended meanwhile

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["test_end_to_end.py test_limits.py", "test_bad_days.py", "test_held.py"]
)
def test_the_suite_passes_in_a_namespace_of_others(
    cluster: Cluster, env: dict[str, str], part: str
) -> None:
    cluster.create(SERVICE_ACCOUNTS, {"metadata": {"name": ACCOUNT}})
    rules = [
        {
            "apiGroups": [each.group],
            "resources": [f"{each.resource}/{each.subresource}".rstrip("/")],
            "verbs": [each.verb],
        }
        for each in DISPATCHER
    ]
    cluster.access.grant(f"system:serviceaccount:{SPACE}:{ACCOUNT}", rules, [SPACE])
    with memory_limits(cluster):
        done = suite(
            *[f"--deselect=tests/cluster/{file}" for file in PARTS if file not in part],
            **env,
            CLUSTER_NAMESPACE=SPACE,
            CLUSTER_SERVICE_ACCOUNT=ACCOUNT,
        )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    summary = done.stdout.splitlines()[-1]
    assert " passed" in summary and " skipped" not in summary
    left = (JOBS, PODS, SECRETS, QUOTAS)
    cluster.until(lambda: not any(cluster.store.count(resource) for resource in left))


@pytest.mark.slow
def test_the_suite_makes_a_namespace_that_is_restricted_and_takes_it_away(
    cluster: Cluster, env: dict[str, str]
) -> None:
    made: list[dict[str, str]] = []
    cluster.store.subscribe(
        NAMESPACES, lambda change: made.append(change.body["metadata"].get("labels") or {})
    )
    done = suite("-k", "result_comes_back", **env)
    assert done.returncode == 0, done.stdout[-8000:]
    assert made[0]["pod-security.kubernetes.io/enforce"] == "restricted"
    name = made[0]["kubernetes.io/metadata.name"]
    cluster.until(lambda: cluster.store.get(NAMESPACES, "", name) is None)


@pytest.mark.slow
def test_a_resource_of_no_node_is_reported_before_anything_is_made(
    cluster: Cluster, env: dict[str, str]
) -> None:
    done = suite("-k", "result_comes_back", **env, CLUSTER_RESOURCE="example.com/gpu")
    assert "no node advertises example.com/gpu: name another in CLUSTER_RESOURCE" in done.stdout
    assert done.returncode == 1
    assert not cluster.store.count(SECRETS)


@pytest.mark.slow
def test_a_redis_that_others_use_is_left_alone(cluster: Cluster, env: dict[str, str]) -> None:
    with redis.Redis.from_url(env["CLUSTER_REDIS_URL"]) as asked:
        asked.set("theirs", 1)
        done = suite("-k", "result_comes_back", **env)
        assert done.returncode == 1 and "its database has 1 keys" in done.stdout
        assert asked.get("theirs") == b"1"


def test_without_an_image_nothing_runs_even_with_a_kubeconfig() -> None:
    done = suite(KUBECONFIG="/some/kubeconfig")
    assert done.returncode == 0
    assert re.search(r"SKIPPED \[\d+\] .*for a real cluster: CLUSTER_IMAGE not set", done.stdout)
    assert " passed" not in done.stdout


def test_the_redis_of_the_suite_is_a_pod_that_a_restricted_namespace_takes(
    cluster: Cluster,
) -> None:
    cluster.add_namespace("strict", {"pod-security.kubernetes.io/enforce": "restricted"})
    with client.ApiClient(rights.loaded(cluster.kubeconfig)) as asked:
        made = raw(
            client.CoreV1Api(asked).create_namespaced_pod,
            "strict",
            redis_pod.pod("redis", "secret"),
        )
    assert made["spec"]["containers"][0]["command"][-2:] == ["--requirepass", "secret"]


def test_the_role_that_the_suite_makes_is_what_the_dispatcher_needs() -> None:
    body = client.ApiClient().sanitize_for_serialization(rights.role("dispatcher"))
    assert {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]} in body["rules"]
    given = {
        (group, each, verb)
        for rule in body["rules"]
        for group in rule["apiGroups"]
        for each in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given == {
        (each.group, f"{each.resource}/{each.subresource}".rstrip("/"), each.verb)
        for each in DISPATCHER
    }
