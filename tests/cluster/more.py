"""One more dispatcher for a class that no other test has; what the cluster and the queue say."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.result import AsyncResult
from kubernetes import client

from gpuqueue.model.place import Place
from gpuqueue.store import places
from tests.cluster.answers import raw
from tests.cluster.real_cluster import PATIENCE, RealCluster
from tests.support.nodes import WorkerNode
from tests.support.waiting import until


@contextmanager
def dispatcher(
    cluster: RealCluster, env: dict[str, str], without: str = ""
) -> Iterator[WorkerNode]:
    """One more, for a class that no other test has."""
    node = cluster.dispatcher(f"more-{secrets.token_hex(3)}", env, without)
    try:
        yield node
    finally:
        node.stop()


def held(cluster: RealCluster, gpu_class: str, *kinds: str) -> Place:
    """Wait until the cluster holds a class, or what belongs to it."""

    def found() -> Place | None:
        aside = places.set_aside(places.of(cluster.client, gpu_class))
        return next((each for each in aside if each.kind in kinds), None)

    return until(found, PATIENCE, f"{gpu_class} is held", cluster.workers[-1].logs)


def ends_well(cluster: RealCluster, result: AsyncResult, value: object, gpu_class: str) -> None:
    """Its result is there, no attempt counts but the last, and its class is not held."""
    assert result.get(2 * PATIENCE) == value
    record = cluster.in_state(result.id, "ended")
    assert record["attempt"] - record.get("spared", 0) == 1
    until(
        lambda: not places.set_aside(places.of(cluster.client, gpu_class)),
        PATIENCE,
        f"{gpu_class} is not held",
    )


def pod(cluster: RealCluster, name: str) -> Any:
    return raw(cluster.core.read_namespaced_pod, name, cluster.namespace)


def job(cluster: RealCluster, name: str) -> Any:
    """A Job; None: there is none."""
    try:
        return raw(cluster.batch.read_namespaced_job, name, cluster.namespace)
    except client.ApiException as exc:
        if exc.status != 404:
            raise
        return None
