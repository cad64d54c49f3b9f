"""Pods that keep others off their node, pods that share one, and nodes that come for them: the
rules of required affinity, with the manifests of attempts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.job import attempt_manifest
from gpuqueue.settings.kubernetes import ClusterSettings
from tests.doubles.kubernetes import Cluster, Image, Node
from tests.doubles.kubernetes.objects.bodies import Body, condition_of
from tests.doubles.kubernetes.objects.kinds import JOBS

T4 = GpuClass("t4", shared_slots=4, exclusive_slots=1, domain="node", image="x:1")
SETTINGS = ClusterSettings()
COMMON = ManifestContext("default", "us", None, "INFO", 60, 5, 60, 60)
POOL = Node("pool", resources={"nvidia.com/gpu": "4"})


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of two nodes whose containers are timers."""
    nodes = [Node(name, resources={"nvidia.com/gpu": "4"}) for name in ("a", "b")]
    images = {"x:1": Image()}
    with Cluster(tmp_path, pace=0.002, nodes=nodes, images=images, processes=False) as cluster:
        yield cluster


def start(cluster: Cluster, name: str, isolation: str = "shared", **fields: Any) -> str:
    """Create the Job of an attempt; return its name."""
    record: Any = {
        "delivery": name,
        "id": name,
        "task": "shop.add",
        "gpu_class": "t4",
        "attempt": 1,
        "isolation": isolation,
        "token": "x",
        **fields,
    }
    manifest = attempt_manifest(record, T4, SETTINGS, COMMON)
    created: str = cluster.create(JOBS, manifest)["metadata"]["name"]
    return created


def node_of(cluster: Cluster, job: str) -> str:
    """The node of the pod of a Job, once it has one."""

    def look() -> str:
        pod = cluster.pod_of(job)
        return pod["spec"].get("nodeName", "") if pod else ""

    return cluster.until(lambda: look() or None)


def refused(cluster: Cluster, job: str) -> str:
    """Why no node takes the pod of a Job."""

    def look() -> Body | None:
        pod = cluster.pod_of(job)
        found = condition_of(pod, "PodScheduled") if pod else None
        return found if found and found["status"] == "False" else None

    message: str = cluster.until(look)["message"]
    return message


def end(cluster: Cluster, job: str) -> None:
    """End the pod of a Job."""
    pod = cluster.pod_of(job)
    assert pod is not None
    name = pod["metadata"]["name"]
    cluster.faults.delete_pod(name, grace=0)
    cluster.until(lambda: cluster.pod(name) is None)


@pytest.mark.parametrize(("first", "second"), [("shared", "exclusive"), ("exclusive", "shared")])
def test_pods_on_one_node_are_never_of_both_isolations(
    cluster: Cluster, first: str, second: str
) -> None:
    """Though a dispatcher sends both there."""
    there = start(cluster, "one", first, domain="a")
    assert node_of(cluster, there) == "a"
    other = start(cluster, "two", second, domain="a")
    why = refused(cluster, other)
    assert "1 node(s) didn't match pod anti-affinity rules" in why
    assert "1 node(s) didn't match Pod's node affinity/selector" in why
    end(cluster, there)
    assert node_of(cluster, other) == "a"


def test_pods_that_wait_for_a_node_together_get_one_node(cluster: Cluster) -> None:
    pods = [start(cluster, f"s{number}", domain="new_1") for number in range(4)]
    assert len({node_of(cluster, each) for each in pods}) == 1
    rest = start(cluster, "s5", domain="new_1")
    why = refused(cluster, rest)
    assert "node(s) didn't match pod affinity rules" in why, "the other node is not theirs"
    assert "Insufficient nvidia.com/gpu" in why


def test_pods_of_two_domains_without_a_node_never_share_one(cluster: Cluster) -> None:
    one, two = (start(cluster, each, domain=f"new_{each}") for each in ("1", "2"))
    assert node_of(cluster, one) != node_of(cluster, two)
    three = start(cluster, "3", domain="new_3")
    assert "2 node(s) didn't match pod anti-affinity rules" in refused(cluster, three)


def test_a_pod_that_waits_for_a_node_keeps_off_those_of_others(cluster: Cluster) -> None:
    there = start(cluster, "old", domain="a")
    assert node_of(cluster, there) == "a"
    assert node_of(cluster, start(cluster, "new", domain="new_1")) == "b"
    foreign = start(cluster, "later", domain="b")
    assert "didn't satisfy existing pods anti-affinity rules" in refused(cluster, foreign)
    assert node_of(cluster, start(cluster, "own", domain="b", origin="new_1")) == "b"


def test_an_autoscaler_adds_one_node_for_pods_that_share_it(tmp_path: Path) -> None:
    images = {"x:1": Image()}
    with Cluster(tmp_path, pace=0.002, nodes=[], images=images, processes=False) as cluster:
        cluster.autoscale(POOL, 2)
        shared = [start(cluster, f"s{number}", domain="new_1") for number in range(3)]
        alone = start(cluster, "e", "exclusive", domain="new_2")
        assert len({node_of(cluster, each) for each in shared}) == 1
        assert node_of(cluster, alone) != node_of(cluster, shared[0])
        late = start(cluster, "e2", "exclusive", domain="new_3")
        refused(cluster, late)
        pod = cluster.pod_of(late)
        assert pod is not None
        told = cluster.until(
            lambda: [
                each
                for each in cluster.events_of(pod["metadata"]["name"])
                if each["reason"] == "NotTriggerScaleUp"
            ]
        )
        assert told[0]["message"].endswith("1 max node group size reached")
        assert sorted(cluster.fleet.kubelets) == ["pool-1", "pool-2"]
        end(cluster, alone)
        assert node_of(cluster, late) == "pool-2"
