"""Warm pods in a cluster: a pod runs job after job, and gives its share of a GPU up for others."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from gpuqueue import gpu
from tests.doubles.kubernetes import Node
from tests.doubles.kubernetes.objects.deletion import Deletion
from tests.doubles.kubernetes.objects.kinds import PODS
from tests.support.cluster_stack import ClusterStack
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
GPU, ALONE = "gpu.t4.shared", "gpu.t4.exclusive"
#: Two shares of a GPU in all.
ENV = {"GPUQUEUE_WARM_SECONDS": "60", "T4_SHARED_SLOTS": "2"}


@pytest.fixture(scope="module")
def warm(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]
) -> Iterator[ClusterStack]:
    nodes = [Node("node-a", resources={"nvidia.com/gpu": "2"})]
    folder = tmp_path_factory.mktemp("warm")
    with listed(running_stacks, ClusterStack(folder, ENV, nodes=nodes)) as made:
        made.dispatcher()
        yield made


@pytest.fixture
def shop(warm: ClusterStack) -> ModuleType:
    return warm.shop


@pytest.fixture(autouse=True)
def cold(warm: ClusterStack) -> Iterator[None]:
    """Each test begins and ends without a pod."""
    yield
    warm.idle()
    for pod in warm.cluster.pods():
        end(warm, pod)
    until(lambda: not waiting(warm), PATIENCE, "no pod waits", lambda: str(waiting(warm)))


def end(stack: ClusterStack, pod: Any) -> None:
    """As an eviction does."""
    name = pod["metadata"]["name"]
    stack.cluster.registry.delete(PODS, stack.cluster.namespace, name, Deletion("Background"))


def waiting(stack: ClusterStack) -> list[str]:
    return stack.reader.waiting_pods("t4")


def pod_waits(stack: ClusterStack, pods: int = 1) -> None:
    until(lambda: len(waiting(stack)) == pods, PATIENCE, "a pod waits", lambda: str(waiting(stack)))


def instance(stack: ClusterStack, result: Any) -> str:
    found: str = stack.known(result.id)["instance"]
    return found


def live(stack: ClusterStack) -> list[str]:
    """The pods that have not ended."""
    over = ("Succeeded", "Failed")
    pods = [each for each in stack.cluster.pods() if each["status"]["phase"] not in over]
    return [
        each["metadata"]["name"] for each in pods if "deletionTimestamp" not in each["metadata"]
    ]


def test_a_pod_runs_job_after_job(shop: ModuleType, warm: ClusterStack) -> None:
    results = []
    for number in range(4):
        results.append(shop.add.apply_async((number, 1), queue=GPU))
        assert results[-1].get(PATIENCE) == number + 1
        pod_waits(warm)
    assert len({instance(warm, each) for each in results}) == 1
    assert [warm.known(each.id).get("warm_turn") for each in results] == [None, 2, 3, 4]
    assert warm.holders() == []


@pytest.mark.slow
def test_a_burst_uses_the_slots_and_no_more_pods(shop: ModuleType, warm: ClusterStack) -> None:
    results = [shop.add.apply_async((number, 1), queue=GPU) for number in range(12)]
    assert [each.get(PATIENCE) for each in results] == list(range(1, 13))
    assert len({instance(warm, each) for each in results}) <= 3


def test_what_waits_gives_its_share_to_a_job_of_another_kind(
    shop: ModuleType, warm: ClusterStack, key: str
) -> None:
    first = [shop.hold.apply_async((f"{key}{n}",), queue=GPU) for n in range(2)]
    for number in range(2):
        warm.told(f"{key}{number}")
        warm.go(f"{key}{number}")
    assert [each.get(PATIENCE) for each in first] == [f"{key}0", f"{key}1"]
    pod_waits(warm, 2)
    other = shop.add.apply_async((1, 1), **gpu("t4", tenant="vision"))
    assert other.get(PATIENCE) == 2
    assert instance(warm, other) not in {instance(warm, each) for each in first}
    alone = shop.add.apply_async((2, 2), queue=ALONE)
    assert alone.get(PATIENCE) == 4


def test_a_job_may_ask_for_a_separate_pod(shop: ModuleType, warm: ClusterStack) -> None:
    first = shop.add.apply_async((1, 1), queue=GPU)
    first.get(PATIENCE)
    pod_waits(warm)
    other = shop.add.apply_async((1, 2), **gpu("t4", isolation="shared", warm=0))
    assert other.get(PATIENCE) == 3
    assert instance(warm, other) != instance(warm, first)
    pod_waits(warm)


@pytest.mark.slow
def test_a_pod_that_waits_is_left_alone_by_repairs(shop: ModuleType, warm: ClusterStack) -> None:
    first = shop.add.apply_async((1, 1), queue=GPU)
    first.get(PATIENCE)
    pod_waits(warm)
    [pod] = live(warm)
    cycles = 6 * float(warm.env["GPUQUEUE_REPAIR_SECONDS"])
    seen = warm.client.time()[0]
    until(lambda: warm.client.time()[0] - seen > cycles, PATIENCE, "several repairs")
    assert live(warm) == [pod]
    second = shop.add.apply_async((1, 2), queue=GPU)
    assert second.get(PATIENCE) == 3
    assert instance(warm, second) == instance(warm, first)


def test_a_revoked_job_ends_its_pod_and_no_other_job(
    shop: ModuleType, warm: ClusterStack, key: str
) -> None:
    shop.add.apply_async((1, 1), queue=GPU).get(PATIENCE)
    pod_waits(warm)
    held = shop.hold.apply_async((key,), queue=GPU)
    warm.told(key)
    held.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        held.get(PATIENCE)
    warm.idle()
    assert shop.add.apply_async((2, 2), queue=GPU).get(PATIENCE) == 4


@pytest.fixture
def held(shop: ModuleType, warm: ClusterStack, key: str) -> Any:
    """A job that runs in a pod which has run another one."""
    shop.add.apply_async((1, 1), queue=GPU).get(PATIENCE)
    pod_waits(warm)
    made = shop.hold.apply_async((key,), queue=GPU)
    warm.told(key)
    assert warm.known(made.id)["warm_turn"] == 2
    return made


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["evict", "preempt"])
def test_a_job_whose_warm_pod_must_go_is_tried_again(
    warm: ClusterStack, held: Any, key: str, fault: str
) -> None:
    before = instance(warm, held)
    getattr(warm.cluster.faults, fault)(warm.pod_name(held.id))
    warm.told(key)
    warm.go(key)
    assert held.get(PATIENCE) == key
    assert warm.known(held.id)["attempt"] == 2
    assert instance(warm, held) != before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [("oom_kill", "HOST_OOM"), ("delete_pod", "POD_DELETED"), ("kill", "ERROR")],
)
def test_a_job_whose_warm_pod_ends_ends_as_in_a_cold_one(
    shop: ModuleType, warm: ClusterStack, held: Any, fault: str, reason: str
) -> None:
    getattr(warm.cluster.faults, fault)(warm.pod_name(held.id))
    until(lambda: held.state == "FAILURE", PATIENCE, "it fails", lambda: str(warm.record(held.id)))
    assert warm.known(held.id)["reason"] == reason
    assert shop.add.apply_async((2, 2), queue=GPU).get(PATIENCE) == 4


@pytest.mark.slow
def test_a_job_that_was_given_to_a_pod_as_it_died_is_not_lost(
    shop: ModuleType, warm: ClusterStack
) -> None:
    shop.add.apply_async((1, 1), queue=GPU).get(PATIENCE)
    pod_waits(warm)
    [name] = live(warm)
    for pid in warm.cluster.pids(name):
        os.kill(pid, signal.SIGSTOP)
    late = shop.add.apply_async((2, 3), queue=GPU)
    until(lambda: (warm.record(late.id) or {}).get("warm_turn"), PATIENCE, "the pod has the job")
    for pid in warm.cluster.pids(name):
        os.kill(pid, signal.SIGKILL)
    assert late.get(PATIENCE) == 5
    assert warm.known(late.id)["attempt"] == 2


@pytest.mark.slow
def test_a_job_in_a_warm_pod_is_adopted_when_redis_has_lost_all(
    shop: ModuleType, warm: ClusterStack, held: Any, key: str
) -> None:
    where = instance(warm, held)
    kept = warm.client.keys("gpuqueue:1:{t4}:*")
    warm.client.delete(*kept)
    found = warm.in_state(held.id, "running")
    assert (found["instance"], found["warm_turn"], found["attempt"]) == (where, 2, 1)
    until(lambda: warm.holders() == [held.id], PATIENCE, "it alone holds a slot")
    warm.go(key)
    assert held.get(PATIENCE) == key
    warm.idle()
    assert shop.add.apply_async((2, 2), queue=GPU).get(PATIENCE) == 4


@pytest.mark.slow
def test_a_pod_takes_no_job_beyond_its_limits(tmp_path: Path, running_stacks: list[Stack]) -> None:
    env = {**ENV, "GPUQUEUE_WARM_JOBS": "2"}
    with listed(running_stacks, ClusterStack(tmp_path, env)) as stack:
        stack.dispatcher()
        results = []
        for number in range(4):
            results.append(stack.shop.add.apply_async((number, 1), queue=GPU))
            results[-1].get(PATIENCE)
            stack.idle()
        instances = [instance(stack, each) for each in results]
        assert instances[0] == instances[1] != instances[2] == instances[3]
