"""The limits of a cluster: no fitting node, a used-up quota, no more rights than needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from kubernetes import client

from gpuqueue.errors import ExecutorDied, ImageUnusable, QuotaExceeded, Unschedulable
from tests.cluster import rights
from tests.cluster.answers import raw
from tests.cluster.real_cluster import PATIENCE, RealCluster
from tests.support.waiting import until


def test_what_no_node_can_take_ends_the_job_in_the_schedulers_words(cluster: RealCluster) -> None:
    own = cluster.owning(
        "nowhere", 'exclusive_slots = 1\nnode_selector = { "gpuqueue.io/no" = "node" }'
    )
    dispatcher = cluster.dispatcher("nowhere", own)
    result = cluster.send("add", 1, 1, queue="gpu.nowhere")
    until(
        lambda: (cluster.record(result.id) or {}).get("wait") == "UNSCHEDULABLE",
        PATIENCE,
        "what it waits for is noted",
    )
    with pytest.raises(Unschedulable, match="nodes are available"):
        result.get(PATIENCE)
    dispatcher.stop()


def test_a_quota_that_refuses_the_pod_ends_the_job_in_time(cluster: RealCluster) -> None:
    with quota(cluster, {f"requests.{cluster.resource}": "0"}):
        result = cluster.send("add", 1, 1)
        with pytest.raises(QuotaExceeded, match="exceeded quota"):
            result.get(PATIENCE)
        cluster.idle()
    assert cluster.send("add", 1, 1).get(PATIENCE) == 2


def test_a_dispatcher_needs_no_more_than_its_role(cluster: RealCluster) -> None:
    with ExitStack() as undo:
        own = cluster.owning("limited", "exclusive_slots = 1")
        kubeconfig = allowed(
            lambda: rights.limited(
                cluster.core, cluster.namespace, cluster.name, cluster.directory, undo
            )
        )
        with (
            client.ApiClient(rights.loaded(kubeconfig)) as asked,
            pytest.raises(client.ApiException, match="403"),
        ):
            raw(client.CoreV1Api(asked).list_namespaced_secret, cluster.namespace)
        dispatcher = cluster.dispatcher("limited", {**own, "KUBECONFIG": str(kubeconfig)})
        undo.callback(dispatcher.stop)
        assert cluster.send("add", 2, 3, queue="gpu.limited").get(PATIENCE) == 5
        with pytest.raises(ExecutorDied, match=r"(?s)exit code 7.*about to crash"):
            cluster.send("crash", 7, queue="gpu.limited").get(PATIENCE)
        running = cluster.send("hold", 300, queue="gpu.limited")
        cluster.in_state(running.id, "running")
        running.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            running.get(PATIENCE)
        with pytest.raises(ImageUnusable):
            unknown = {"gpu": {"image": "127.0.0.1:1/none/at-all:1"}}
            cluster.send("add", 1, 1, queue="gpu.limited", headers=unknown).get(PATIENCE)


@contextmanager
def quota(cluster: RealCluster, hard: dict[str, str]) -> Iterator[None]:
    """A ResourceQuota, in force."""
    body = {"metadata": {"name": cluster.name}, "spec": {"hard": hard}}
    allowed(lambda: raw(cluster.core.create_namespaced_resource_quota, cluster.namespace, body))
    try:
        read = cluster.core.read_namespaced_resource_quota
        until(
            lambda: raw(read, cluster.name, cluster.namespace).get("status", {}).get("hard"),
            PATIENCE,
            "the quota is in force",
        )
        yield
    finally:
        raw(cluster.core.delete_namespaced_resource_quota, cluster.name, cluster.namespace)


def allowed(make: Callable[[], Any]) -> Any:
    """What was made; the test is left out where its user may not make such a thing."""
    try:
        return make()
    except client.ApiException as exc:
        if exc.status != 403:
            raise
        pytest.skip(f"not allowed in this cluster: {exc.body}")
