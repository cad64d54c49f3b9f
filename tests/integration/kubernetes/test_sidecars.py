"""A slot is what the scheduler counts: containers that webhooks add keep a pod, and its GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery.result import AsyncResult

from gpuqueue.errors import ContainerFailed, ExecutorDied, HostOutOfMemory
from tests.doubles.kubernetes.objects.kinds import PODS, Resource
from tests.support.cluster_stack import ClusterStack
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
GPU, ALONE = "gpu.t4.shared", "gpu.t4.exclusive"
#: As a mesh's: it ends on SIGTERM, and by itself never.
RUNS_ON = "exec sleep 600"


@contextmanager
def injected(
    stack: ClusterStack, *, native: bool = False, program: str = RUNS_ON
) -> Iterator[None]:
    """Add a container to each new pod, as the webhook of a mesh does."""

    def add(resource: Resource, body: dict[str, Any]) -> None:
        if resource is not PODS:
            return
        spec = body["spec"]
        image = spec["containers"][0]["image"]
        own: dict[str, Any] = {"name": "istio-proxy", "image": image, "resources": {}}
        own["command"] = ["sh", "-c", program]
        if native:
            spec.setdefault("initContainers", []).append({**own, "restartPolicy": "Always"})
        else:
            spec["containers"].append(own)

    webhooks = stack.cluster.registry.webhooks
    webhooks.append(add)
    try:
        yield
    finally:
        webhooks.remove(add)


def freed(stack: ClusterStack, result: AsyncResult) -> None:
    """Wait until the slot is free: its pod is gone by then, or has ended."""
    record = stack.in_state(result.id, "ended")
    job = record["instance"].split("/")[1]

    def is_free() -> bool:
        holds = result.id in stack.holders()
        pod = stack.cluster.pod_of(job)
        phase = pod["status"]["phase"] if pod else "gone"
        states = pod["status"].get("containerStatuses", []) if pod else []
        runs = phase in ("Pending", "Running") and any("running" in s["state"] for s in states)
        assert holds or not runs, "its slot is free while a container holds its GPU"
        return not holds

    until(is_free, PATIENCE, "its slot is free")


@pytest.mark.parametrize("native", [False, True], ids=["ordinary", "native"])
def test_jobs_follow_one_another_beside_sidecars(quick: ClusterStack, native: bool) -> None:
    with injected(quick, native=native):
        results = [quick.shop.add.apply_async((n, 1), queue=ALONE) for n in range(3)]
        assert [result.get(PATIENCE) for result in results] == [1, 2, 3]
        for result in results:
            freed(quick, result)


def test_the_slot_is_held_until_the_sidecar_has_ended(quick: ClusterStack) -> None:
    with injected(quick, program="trap 'sleep 1; exit' TERM; while :; do sleep 0.05; done"):
        result = quick.shop.add.apply_async((1, 1), queue=GPU)
        assert result.get(PATIENCE) == 2
        freed(quick, result)
    record = quick.known(result.id)
    assert until(lambda: quick.log_of(record), PATIENCE, "the log is kept")


def test_an_end_beside_a_sidecar_is_that_of_the_executor(quick: ClusterStack, key: str) -> None:
    with injected(quick, program="trap 'exit 3' TERM; while :; do sleep 0.05; done"):
        crashed = quick.shop.leave.apply_async(("os._exit",), queue=GPU)
        with pytest.raises(ExecutorDied, match=r"exit code 4"):
            crashed.get(PATIENCE)
        freed(quick, crashed)
        assert quick.known(crashed.id)["exit_code"] == 4
        held = quick.shop.hold.apply_async((key,), queue=GPU)
        quick.told(key)
        quick.cluster.faults.oom_kill(quick.pod_name(held.id), "executor")
        with pytest.raises(HostOutOfMemory, match="OOMKilled"):
            held.get(PATIENCE)
        freed(quick, held)


def test_a_container_job_beside_a_sidecar_keeps_its_code_and_log(quick: ClusterStack) -> None:
    words = ["sh", "-c", "echo done; echo its own > /dev/termination-log; exit 5"]
    with injected(quick):
        call = {"image": "shop:1", "command": words}
        result = quick.app.send_task("gpuqueue.run", kwargs=call, queue=GPU)
        with pytest.raises(ContainerFailed, match="exit code 5"):
            result.get(PATIENCE)
        freed(quick, result)
    record = quick.known(result.id)
    assert (record["exit_code"], record["reason"]) == (5, "ERROR")
    assert "done" in str(quick.log_of(record))
