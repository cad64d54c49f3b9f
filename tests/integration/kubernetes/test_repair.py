"""What goes on, and what is repaired, when the API server, a watch, a node, a dispatcher or Redis
goes away.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

import gpuqueue
from gpuqueue.model.place import Place
from gpuqueue.store import places
from tests.doubles.kubernetes import Node
from tests.doubles.kubernetes.objects.deletion import Deletion
from tests.doubles.kubernetes.objects.kinds import JOBS
from tests.support.cluster_stack import ClusterStack
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
GPU, ALONE = "gpu.t4.shared", "gpu.t4.exclusive"


# -- launches that the API does not take -----------------------------------------------------------


@pytest.mark.parametrize(("status", "more"), [(429, {"retry_after": 1}), (500, {}), (503, {})])
def test_a_launch_that_the_server_cannot_take_now_is_tried_again(
    shop: ModuleType, quick: ClusterStack, status: int, more: dict[str, Any]
) -> None:
    quick.cluster.faults.fail(status, method="POST", path="/jobs", times=2, **more)
    result = shop.add.apply_async((1, 1), queue=GPU)
    assert result.get(PATIENCE) == 2
    assert quick.in_state(result.id, "ended")["attempt"] == 1


def test_a_launch_whose_answer_is_lost_makes_one_job(
    shop: ModuleType, quick: ClusterStack, key: str
) -> None:
    quick.cluster.faults.cut(after=True, method="POST", path="/jobs", times=1)
    result = shop.tell_of.apply_async((key, "ran"), queue=GPU)
    assert result.get(PATIENCE) == "ran"
    assert quick.told_so_far(key) == ["ran"]


def test_a_job_is_cancelled_while_its_launch_is_tried_again(
    shop: ModuleType, quick: ClusterStack, key: str
) -> None:
    quick.cluster.faults.fail(503, method="POST", path="/jobs", times=1000)
    try:
        result = shop.tell_of.apply_async((key, "ran"), queue=GPU)
        until(
            lambda: (quick.record(result.id) or {}).get("wait") == "LAUNCH_REFUSED",
            PATIENCE,
            "it is tried again",
        )
        result.revoke()
        until(lambda: result.state == "REVOKED", PATIENCE, "it is revoked")
    finally:
        quick.cluster.faults.clear()
    quick.idle()
    assert quick.told_so_far(key) == []


def test_a_launch_that_is_never_taken_is_waited_for(stacks: Callable[..., ClusterStack]) -> None:
    stack = stacks({"GPU_LAUNCH_TIMEOUT": "1", "GPUQUEUE_MAX_ATTEMPTS": "1"})
    stack.dispatcher()
    stack.cluster.faults.fail(500, method="POST", path="/jobs", times=1000)
    result = stack.shop.add.apply_async((1, 1), queue=GPU)
    [place] = until(lambda: held(stack), PATIENCE, "its class is held")
    assert place.kind == "launch" and "500 InternalError" in place.error
    stack.cluster.faults.clear()
    assert result.get(PATIENCE) == 2
    stack.idle()


def test_a_launch_that_is_forbidden_is_waited_for(stacks: Callable[..., ClusterStack]) -> None:
    stack = stacks({"GPUQUEUE_MAX_ATTEMPTS": "1"})
    node = stack.dispatcher()
    stack.cluster.faults.fail(403, method="POST", path="/jobs", times=1)
    assert stack.shop.add.apply_async((1, 1), queue=GPU).get(PATIENCE) == 2
    assert "launch:t4 is set aside" in node.logs()
    stack.idle()


def test_a_dispatcher_that_may_not_create_jobs_starts_and_says_so(
    stacks: Callable[..., ClusterStack],
) -> None:
    stack = stacks()
    token = stack.cluster.user(
        "reader", [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    )
    node = stack.dispatcher(env={"KUBECONFIG": str(stack.cluster.kubeconfig_for(token))})
    assert 'cannot create resource "jobs"' in node.logs()


DENIED = json.dumps(
    {
        "kind": "Status",
        "status": "Failure",
        "code": 403,
        "reason": "Forbidden",
        "message": 'admission webhook "keep" denied the request: it stays',
    }
)


@pytest.mark.slow
def test_a_job_that_may_not_be_deleted_concerns_no_other(
    stacks: Callable[..., ClusterStack], key: str
) -> None:
    stack = stacks({"GPUQUEUE_WARM_SECONDS": "0"})
    node = stack.dispatcher()
    first, second = (stack.shop.hold.apply_async((key,), queue=GPU) for _ in range(2))
    stack.told(key)
    stack.told(key)
    name = stack.known(first.id)["instance"].split("/")[1]
    stack.cluster.faults.fail(403, method="DELETE", path=name, times=None, body=DENIED)
    first.revoke(terminate=True)
    until(lambda: "denied the request: it stays" in node.logs(), PATIENCE, "it is told")
    second.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        second.get(PATIENCE)
    until(lambda: stack.holders() == [first.id], PATIENCE, "one slot is free")
    stack.cluster.faults.clear()
    with pytest.raises(TaskRevokedError):
        first.get(PATIENCE)


@pytest.mark.slow
def test_a_stray_that_may_not_be_deleted_keeps_no_other(
    stacks: Callable[..., ClusterStack], key: str
) -> None:
    stack = stacks({"GPUQUEUE_WARM_SECONDS": "0"})
    node = stack.dispatcher()
    jobs = [stack.shop.hold.apply_async((key,), queue=GPU) for _ in range(3)]
    for _ in jobs:
        stack.told(key)
    names = [stack.known(each.id)["instance"].split("/")[1] for each in jobs]
    denied = "|".join(names[:2])
    stack.cluster.faults.fail(403, method="DELETE", path=denied, times=None, body=DENIED)
    for each in jobs:  # their jobs go on without them
        record = stack.known(each.id) | {"attempt": 2, "token": "x"}
        stack.client.hset("gpuqueue:1:{t4}:jobs", each.id, json.dumps(record))
        stack.client.zrem("gpuqueue:1:{t4}:holders_shared", f"{each.id}#1")
    until(lambda: stack.cluster.job(names[2]) is None, PATIENCE, "it is stopped", node.logs)
    assert all(stack.cluster.job(name) for name in names[:2])
    assert "step 'repair' failed" not in node.logs()


def held(stack: ClusterStack) -> list[Place]:
    return places.set_aside(places.of(stack.client, "t4"))


# -- watches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["dropped", "silent", "expired", "compacted"])
def test_an_end_is_seen_though_the_watch_is(
    shop: ModuleType, quick: ClusterStack, key: str, fault: str
) -> None:
    result = shop.hold.apply_async((key,), queue=GPU)
    quick.told(key)
    faults = quick.cluster.faults
    if fault == "dropped":
        faults.drop_watches()
    elif fault == "silent":
        faults.silence_watches()
    elif fault == "expired":
        faults.expire_watches(1)
        faults.drop_watches()
    else:
        faults.compact()
        faults.drop_watches()
    try:
        quick.go(key)
        assert result.get(PATIENCE) == key
        quick.idle()
    finally:
        if fault == "silent":
            faults.silence_watches(on=False)
            faults.drop_watches()  # the silent one: the next test's pods would pass unseen


@pytest.mark.slow
def test_a_container_job_ends_as_it_did_though_the_watch_is_silent(
    stacks: Callable[..., ClusterStack],
) -> None:
    """Its Job alone shows the end, which is then read from its pod."""
    stack = stacks({"GPU_WATCH_SILENCE_SECONDS": "30"})
    stack.dispatcher()
    assert stack.shop.add.apply_async((1, 1), queue=GPU).get(PATIENCE) == 2
    stack.cluster.faults.silence_watches()
    stack.cluster.faults.silence_watches(on=False)  # the next ones, as that of the Jobs
    command = ["python3", "-c", "print('done')"]
    result = gpuqueue.run("shop:1", command, app=stack.app).apply_async(queue=GPU)
    assert result.get(PATIENCE) == {"exit_code": 0, "message": "", "log": "done\n"}


def test_jobs_end_and_start_again_when_the_api_server_comes_back(
    shop: ModuleType, quick: ClusterStack, key: str
) -> None:
    result = shop.hold.apply_async((key,), queue=ALONE)
    quick.told(key)
    quick.cluster.faults.front_down()
    quick.go(key)
    assert result.get(PATIENCE) == key, "an executor needs no API server"
    waiting = shop.add.apply_async((1, 1), queue=ALONE)
    until(lambda: quick.record(waiting.id), PATIENCE, "it is accepted")
    assert quick.holders() == [result.id], "its slot stays taken while its pod is out of sight"
    quick.cluster.faults.front_up()
    assert waiting.get(PATIENCE) == 2


# -- nodes -----------------------------------------------------------------------------------------


def test_a_silent_kubelet_is_no_failed_job(shop: ModuleType, quick: ClusterStack, key: str) -> None:
    result = shop.hold.apply_async((key,), queue=GPU)
    quick.told(key)
    quick.cluster.faults.kubelet_down("node-a")
    quick.go(key)
    assert result.get(PATIENCE) == key
    assert result.id in quick.holders()
    quick.cluster.faults.kubelet_up("node-a")
    quick.idle()


def test_a_job_on_a_lost_node_keeps_its_slot_until_the_node_is_given_up(
    stacks: Callable[..., ClusterStack], key: str
) -> None:
    stack = stacks()
    stack.dispatcher()
    result = stack.shop.hold.apply_async((key,), queue=ALONE)
    stack.told(key)
    stack.cluster.faults.node_lost("node-a")
    until(
        lambda: (stack.record(result.id) or {}).get("wait") == "UNCONFIRMED",
        PATIENCE,
        "its end is not confirmed",
    )
    assert stack.holders() == [result.id]
    waiting = stack.shop.add.apply_async((1, 1), queue=GPU)
    stack.in_state(waiting.id, "waiting")
    stack.cluster.faults.node_back("node-a")
    stack.told(key)
    record = stack.known(result.id)
    assert record["attempt"] == 2 and record["avoid"] == ["node-a"]
    stack.go(key)
    assert (result.get(PATIENCE), waiting.get(PATIENCE)) == (key, 2)


# -- by hand ---------------------------------------------------------------------------------------


def test_a_job_deleted_by_hand_frees_its_slot(
    shop: ModuleType, quick: ClusterStack, key: str
) -> None:
    result = shop.hold.apply_async((key,), queue=GPU)
    quick.told(key)
    name = quick.known(result.id)["instance"].split("/")[1]
    quick.cluster.registry.delete(JOBS, quick.cluster.namespace, name, Deletion("Background"))
    until(lambda: result.state == "FAILURE", PATIENCE, "it fails")
    quick.idle()


def test_a_job_without_a_holder_is_deleted(shop: ModuleType, quick: ClusterStack, key: str) -> None:
    result = shop.hold.apply_async((key,), queue=GPU)
    pid = quick.told(key)["pid"]
    record = quick.known(result.id)
    # Its job goes on without it: as if another attempt had been made meanwhile.
    quick.client.hset(
        "gpuqueue:1:{t4}:jobs", result.id, json.dumps({**record, "attempt": 2, "token": "x"})
    )
    quick.client.zrem("gpuqueue:1:{t4}:holders_shared", f"{result.id}#1")
    until(
        lambda: not any(pid in quick.cluster.pids(pod) for pod in quick.cluster.pods()),
        PATIENCE,
        "its pod is stopped",
    )


# -- Redis, dispatchers ----------------------------------------------------------------------------


@pytest.mark.slow
def test_two_clusters_on_one_redis_leave_each_others_jobs_alone(
    stacks: Callable[..., ClusterStack], key: str
) -> None:
    one = stacks()
    one.dispatcher("one")
    other = stacks()
    other.cluster.secret("other", {"CELERY_BROKER_URL": one.url})
    env = {
        "CELERY_BROKER_URL": one.url,
        "GPU_SECRET_NAME": "other",
        "T4_SHARED_SLOTS": "0",
        "T4_EXCLUSIVE_SLOTS": "0",
    }
    env |= {"MIG_TOTAL_SLOTS": "2", "GPU_RESOURCE_NAME": "nvidia.com/mig-1g.5gb"}
    other.cluster.add_node(Node("mig", resources={"nvidia.com/mig-1g.5gb": "2"}))
    other.dispatcher("two", env=env, ready=False)
    until(lambda: "two@test" in one.reader.dispatchers(0), PATIENCE, "the other's dispatcher")
    here = one.shop.hold.apply_async((key,), queue=GPU)
    there = one.shop.hold.apply_async((f"{key}-mig",), queue="gpu.mig-1g.5gb")
    one.told(key)
    one.told(f"{key}-mig")
    assert (len(one.cluster.pods()), len(other.cluster.pods())) == (1, 1)
    until(lambda: len(one.reader.leaders()) == 2, PATIENCE, "each has its own leader")
    time.sleep(
        3
    )  # several rounds of repair, with nothing to wait for: that nothing happens is what is tested
    assert (len(one.cluster.pods()), len(other.cluster.pods())) == (1, 1)
    one.go(key)
    one.go(f"{key}-mig")
    assert (here.get(PATIENCE), there.get(PATIENCE)) == (key, f"{key}-mig")


@pytest.mark.slow
def test_waiting_for_a_pod_and_its_leader_dies(
    stacks: Callable[..., ClusterStack], key: str
) -> None:
    stack = stacks()
    first = stack.dispatcher("one")
    stack.cluster.faults.late_pods(3)
    result = stack.shop.tell_of.apply_async((key, "ran"), queue=GPU)
    stack.in_state(result.id, "launching")
    first.kill()
    stack.dispatcher("two")
    assert result.get(PATIENCE) == "ran"
    assert stack.told_so_far(key) == ["ran"]
    stack.idle()
