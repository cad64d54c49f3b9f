"""The limits of a cluster: no fitting node, a used-up quota, no more rights than needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from kubernetes import client

from gpuqueue.errors import ExecutorDied
from gpuqueue.store import places as stored
from tests.cluster import rights
from tests.cluster.answers import raw
from tests.cluster.real_cluster import PATIENCE, RealCluster
from tests.support.waiting import until


def test_what_no_node_can_take_waits_in_the_schedulers_words(cluster: RealCluster) -> None:
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
    assert "nodes are available" in (cluster.record(result.id) or {}).get("detail", "")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    dispatcher.stop()


def test_a_quota_that_refuses_the_pod_is_waited_for(cluster: RealCluster) -> None:
    with quota(cluster, {f"requests.{cluster.resource}": "0"}):
        result = cluster.send("add", 1, 1)
        until(
            lambda: (cluster.record(result.id) or {}).get("wait") == "QUOTA",
            PATIENCE,
            "it waits for the quota",
        )
    assert result.get(PATIENCE) == 2
    cluster.idle()


def test_a_quota_that_demands_limits_says_what_to_set(cluster: RealCluster) -> None:
    with quota(cluster, {"limits.cpu": "100"}):
        result = cluster.send("add", 1, 1)
        until(
            lambda: (cluster.record(result.id) or {}).get("wait") == "QUOTA",
            PATIENCE,
            "it waits for the quota",
        )
        detail = (cluster.record(result.id) or {}).get("detail", "")
        assert "must specify limits.cpu for: executor" in detail
        assert "set limits.cpu in pod_template.spec.containers of the class" in detail
    assert result.get(PATIENCE) == 2
    cluster.idle()


def test_a_class_has_a_namespace_for_itself(cluster: RealCluster) -> None:
    place = f"{cluster.name}-class"
    own = cluster.owning("apart", f'exclusive_slots = 1\nnamespace = "{place}"')
    with ExitStack() as undo:
        dispatcher = cluster.dispatcher("apart", own)
        undo.callback(dispatcher.stop)
        early = cluster.send("add", 1, 2, queue="gpu.apart")
        until(lambda: "launch" in held(cluster, "apart"), PATIENCE, "the class is held")
        secret = raw(cluster.core.read_namespaced_secret, cluster.name, cluster.namespace)
        allowed(lambda: raw(cluster.core.create_namespace, {"metadata": {"name": place}}))
        undo.callback(raw, cluster.core.delete_namespace, place)
        body = {"metadata": {"name": cluster.name}, "data": secret["data"]}
        raw(cluster.core.create_namespaced_secret, place, body)
        assert early.get(PATIENCE) == 3
        running = cluster.send("hold", 300, queue="gpu.apart")
        cluster.in_state(running.id, "running")
        assert (cluster.record(running.id) or {})["instance"].startswith(f"{place}/")
        running.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            running.get(PATIENCE)
        with pytest.raises(ExecutorDied, match=r"(?s)exit code 7.*about to crash"):
            cluster.send("crash", 7, queue="gpu.apart").get(PATIENCE)


def held(cluster: RealCluster, gpu_class: str) -> set[str]:
    """What of a class is held."""
    places = stored.set_aside(stored.of(cluster.client, gpu_class))
    return {place.kind for place in places}


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
        unknown = {"gpu": {"image": "127.0.0.1:1/none/at-all:1"}}
        away = cluster.send("add", 1, 1, queue="gpu.limited", headers=unknown)
        until(
            lambda: (cluster.record(away.id) or {}).get("wait") == "IMAGE",
            PATIENCE,
            "its image is held",
        )
        away.revoke(terminate=True)


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
