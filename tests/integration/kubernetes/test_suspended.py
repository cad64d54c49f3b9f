"""Another controller holds Jobs back: as Kueue does at creation, and to give their room away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from gpuqueue.errors import PodDeleted
from tests.contract.recorder import Client
from tests.doubles.kubernetes.objects.kinds import JOBS, PODS, Resource
from tests.doubles.kubernetes.objects.wire import stamp
from tests.support.cluster_stack import QUICK, ClusterStack
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
GPU = "gpu.t4.shared"
#: As Kueue's webhook finds it on the Jobs that it manages.
QUEUE = {"kueue.x-k8s.io/queue-name": "team-a"}


@contextmanager
def webhook(stack: ClusterStack, kind: Resource, change: dict[str, Any]) -> Iterator[None]:
    """Change the spec of new objects, and label them, as a mutating webhook does."""

    def mutate(resource: Resource, body: dict[str, Any]) -> None:
        if resource is kind:
            body["spec"].update(change)
            if kind is JOBS and "suspend" in change:
                body["metadata"]["labels"].update(QUEUE)

    webhooks = stack.cluster.registry.webhooks
    webhooks.append(mutate)
    try:
        yield
    finally:
        webhooks.remove(mutate)


def patch(stack: ClusterStack, path: str, change: dict[str, Any]) -> None:
    """Change an object, as another controller does."""
    status, answer, _ = Client(stack.cluster).ask(
        "PATCH", path, change, content="application/merge-patch+json"
    )
    assert status == 200, answer


def suspend(stack: ClusterStack, job: str, suspended: bool) -> None:
    path = f"/apis/batch/v1/namespaces/{stack.cluster.namespace}/jobs/{job}"
    patch(stack, path, {"spec": {"suspend": suspended}})


def job_of(stack: ClusterStack, result: AsyncResult) -> str:
    """The name of its Job, once it is launched."""

    def named() -> str:
        instance = (stack.record(result.id) or {}).get("instance", "")
        return instance.split("/")[1] if instance else ""

    return until(named, PATIENCE, "its Job")


def waiting(stack: ClusterStack, result: AsyncResult) -> str:
    """What it waits for, once another controller holds it back."""
    until(
        lambda: (stack.record(result.id) or {}).get("wait") == "SUSPENDED",
        PATIENCE,
        "it waits for another controller",
        lambda: str(stack.record(result.id)),
    )
    return str(stack.known(result.id)["detail"])


def freed(stack: ClusterStack, result: AsyncResult) -> None:
    until(lambda: result.id not in stack.holders(), PATIENCE, "its slot is free")


def test_a_job_suspended_at_creation_waits_and_runs_when_resumed(quick: ClusterStack) -> None:
    with webhook(quick, JOBS, {"suspend": True}):
        result = quick.shop.add.apply_async((1, 2), queue=GPU)
        job = job_of(quick, result)
        assert "Kueue (queue team-a)" in waiting(quick, result)
    suspend(quick, job, False)
    assert result.get(PATIENCE) == 3
    freed(quick, result)
    assert quick.known(result.id)["attempt"] == 1


def test_a_job_suspended_before_it_ran_waits(quick: ClusterStack) -> None:
    with webhook(quick, PODS, {"schedulingGates": [{"name": "example.com/first"}]}):
        result = quick.shop.add.apply_async((2, 2), queue=GPU)
        job = job_of(quick, result)
        until(lambda: quick.cluster.pod_of(job), PATIENCE, "its pod")
        suspend(quick, job, True)
        until(lambda: not quick.cluster.pod_of(job), PATIENCE, "its pod is gone")
    words = "its Job is suspended by another controller"
    until(lambda: words in waiting(quick, result), PATIENCE, "it waits for its Job")
    suspend(quick, job, False)
    assert result.get(PATIENCE) == 4
    freed(quick, result)
    assert quick.known(result.id)["attempt"] == 1


def test_a_job_suspended_while_it_runs_is_preempted(quick: ClusterStack, key: str) -> None:
    result = quick.shop.hold.apply_async((key,), queue=GPU)
    first = quick.told(key)["pid"]
    job = job_of(quick, result)
    suspend(quick, job, True)
    second = quick.told(key)["pid"]
    assert first != second
    record = quick.known(result.id)
    assert record["attempt"] == 2
    assert quick.cluster.job(job) is None, "nothing can resume the first attempt"
    quick.go(key)
    assert result.get(PATIENCE) == key
    freed(quick, result)


def test_a_container_job_suspended_while_it_runs_runs_again(quick: ClusterStack) -> None:
    call = {"image": "shop:1", "command": ["python3", "-c", "import time; time.sleep(60)"]}
    result = quick.app.send_task("gpuqueue.run", kwargs=call, queue=GPU)
    until(lambda: result.state == "STARTED", PATIENCE, "it runs", lambda: result.state)
    suspend(quick, job_of(quick, result), True)
    until(
        lambda: (quick.record(result.id) or {}).get("attempt") == 2,
        PATIENCE,
        "a new attempt",
        lambda: str(quick.record(result.id)),
    )
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    freed(quick, result)


def test_a_suspended_job_can_be_cancelled(quick: ClusterStack) -> None:
    with webhook(quick, JOBS, {"suspend": True}):
        result = quick.shop.add.apply_async((1, 2), queue=GPU)
        waiting(quick, result)
    job = job_of(quick, result)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    freed(quick, result)
    assert quick.cluster.job(job) is None


def test_a_pod_deleted_by_hand_after_a_resume_is_no_preemption(
    quick: ClusterStack, key: str
) -> None:
    with webhook(quick, JOBS, {"suspend": True}):
        result = quick.shop.hold.apply_async((key,), queue=GPU)
        waiting(quick, result)
    suspend(quick, job_of(quick, result), False)
    quick.told(key)
    resumed = quick.pod_of(result.id)["metadata"]["creationTimestamp"]
    until(lambda: stamp() > resumed, PATIENCE, "the next second")
    quick.cluster.faults.delete_pod(quick.pod_name(result.id))
    with pytest.raises(PodDeleted):
        result.get(PATIENCE)
    freed(quick, result)


def test_gates_hold_a_pod_without_a_clock(quick: ClusterStack) -> None:
    gates = {"schedulingGates": [{"name": "example.com/quota"}]}
    with webhook(quick, PODS, gates):
        result = quick.shop.add.apply_async((3, 4), queue=GPU)
        assert "example.com/quota" in waiting(quick, result)
    pod = quick.pod_of(result.id)
    made = datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
    limit = float(QUICK["GPU_UNSCHEDULABLE_TIMEOUT"])
    until(lambda: time.time() > made + 2 * limit, PATIENCE, "twice the clock of pods without gates")
    path = f"/api/v1/namespaces/{quick.cluster.namespace}/pods/{pod['metadata']['name']}"
    patch(quick, path, {"spec": {"schedulingGates": None}})
    assert result.get(PATIENCE) == 7
    freed(quick, result)


def test_a_job_of_another_controller_waits_for_its_pods(quick: ClusterStack) -> None:
    with webhook(quick, JOBS, {"managedBy": "example.com/elsewhere"}):
        result = quick.shop.add.apply_async((1, 2), queue=GPU)
        assert "example.com/elsewhere" in waiting(quick, result)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    freed(quick, result)


KEEPS = "example.com/keeps"


@contextmanager
def finalizers(stack: ClusterStack) -> Iterator[None]:
    """Give new pods a gate and a finalizer, as a controller of pods does (Kueue's, among others).
    The scheduler of a recording never binds such a pod; a finalizer is from documentation.
    """

    def mutate(resource: Resource, body: dict[str, Any]) -> None:
        if resource is PODS:
            body["spec"]["schedulingGates"] = [{"name": "example.com/quota"}]
            body["metadata"].setdefault("finalizers", []).append(KEEPS)

    stack.cluster.registry.webhooks.append(mutate)
    try:
        yield
    finally:
        stack.cluster.registry.webhooks.remove(mutate)


def test_a_pod_kept_by_a_finalizer_before_it_had_a_node_holds_no_slot(quick: ClusterStack) -> None:
    with finalizers(quick):
        result = quick.shop.add.apply_async((1, 2), queue=GPU)
        waiting(quick, result)
    pod = quick.pod_of(result.id)["metadata"]["name"]
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    freed(quick, result)
    kept = quick.cluster.pod(pod)
    assert kept is not None and KEEPS in kept["metadata"]["finalizers"]
    told = f"its pod {pod} was deleted before it had a node, and stays for its finalizers {KEEPS}"
    until(lambda: told in "".join(quick.logs().values()), PATIENCE, "it is told")
    path = f"/api/v1/namespaces/{quick.cluster.namespace}/pods/{pod}"
    patch(quick, path, {"metadata": {"finalizers": None}})
