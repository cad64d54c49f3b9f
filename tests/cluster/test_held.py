"""What the cluster refuses to every job of a class, or of an image, holds it. It goes on when the
cluster no longer does.
"""

from __future__ import annotations

import secrets

import pytest
from kubernetes import client

from gpuqueue.errors import PodDeleted
from tests.cluster.answers import raw
from tests.cluster.more import dispatcher, ends_well, held
from tests.cluster.real_cluster import PATIENCE, RealCluster
from tests.cluster.test_limits import allowed, quota


def test_a_priority_class_that_is_missing_holds_the_class(cluster: RealCluster) -> None:
    name = f"{cluster.name}-later"
    own = cluster.owning("priority", f'exclusive_slots = 1\npriority_class = "{name}"')
    body = {"metadata": {"name": name}, "value": 1}
    scheduling = client.SchedulingV1Api()
    with dispatcher(cluster, own):
        result = cluster.send("add", 1, 2, queue="gpu.priority")
        assert name in held(cluster, "priority", "launch").error
        allowed(lambda: raw(scheduling.create_priority_class, body))
        try:
            ends_well(cluster, result, 3, "priority")
        finally:
            raw(scheduling.delete_priority_class, name)


def test_a_runtime_that_no_node_has_holds_the_class(cluster: RealCluster) -> None:
    name = f"{cluster.name}-runtime"
    own = cluster.owning("runtime", f'exclusive_slots = 1\nruntime_class = "{name}"')
    node_api = client.NodeV1Api()

    def make(handler: str) -> None:
        raw(node_api.create_runtime_class, {"metadata": {"name": name}, "handler": handler})

    allowed(lambda: make("gpuqueue-none"))
    try:
        with dispatcher(cluster, own):
            result = cluster.send("add", 2, 2, queue="gpu.runtime")
            assert "gpuqueue-none" in held(cluster, "runtime", "pods").error
            raw(node_api.delete_runtime_class, name)  # its handler cannot be changed
            make(cluster.runtime_handler)
            ends_well(cluster, result, 4, "runtime")
    finally:
        raw(node_api.delete_runtime_class, name)


def test_a_wrong_tag_of_the_image_of_a_class_holds_its_jobs(cluster: RealCluster) -> None:
    wrong = cluster.owning("tag", 'exclusive_slots = 1\nimage = "127.0.0.1:1/none/at-all:1"')
    with dispatcher(cluster, wrong):
        result = cluster.send("add", 3, 2, queue="gpu.tag")
        assert "none/at-all" in held(cluster, "tag", "image").name
    right = cluster.owning("tag", f'exclusive_slots = 1\nimage = "{cluster.image}"')
    with dispatcher(cluster, right):
        assert result.get(2 * PATIENCE) == 5
        record = cluster.in_state(result.id, "ended")
        assert record["attempt"] - record.get("spared", 0) == 1


def test_a_finisher_that_gets_no_pod_waits_for_it(cluster: RealCluster) -> None:
    key = f"told:{secrets.token_hex(6)}"
    errback = cluster.signature("note", key=key).set(immutable=True)
    result = cluster.send("hold", 300, link_error=errback)
    name = cluster.job_of(result.id)
    with quota(cluster, {"pods": "0"}):
        raw(
            cluster.batch.delete_namespaced_job,
            name,
            cluster.namespace,
            propagation_policy="Background",
        )
        assert "exceeded quota" in held(cluster, "test", "finishes").error
        assert cluster.in_state(result.id, "finishing") and not result.ready()
    with pytest.raises(PodDeleted) as caught:
        result.get(3 * PATIENCE)
    assert "could not be finished" not in str(caught.value)
    assert cluster.client.blpop([key], timeout=PATIENCE)
    cluster.idle()
