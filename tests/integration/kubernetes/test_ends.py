"""Every way a Job can go wrong ends typed and in time, and its slot is free afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import ModuleType
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from gpuqueue import gpu
from gpuqueue.errors import (
    ContainerFailed,
    ExecutorDied,
    HostOutOfMemory,
    ImageUnusable,
    InvalidJob,
    LaunchFailed,
    PodDeleted,
)
from gpuqueue.model.place import Place
from gpuqueue.model.record import Record
from gpuqueue.store import places
from tests.doubles.kubernetes.objects.deletion import Deletion
from tests.doubles.kubernetes.objects.kinds import QUOTAS
from tests.support.cluster_stack import ClusterStack
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]
GPU, ALONE = "gpu.t4.shared", "gpu.t4.exclusive"


def ended(stack: ClusterStack, result: AsyncResult, reason: str) -> Record:
    """The record of a job that has ended so, its slot free."""
    record = stack.in_state(result.id, "ended")
    assert record["reason"] == reason
    until(lambda: result.id not in stack.holders(), PATIENCE, "its slot is free")
    return stack.known(result.id)


# -- while it runs ---------------------------------------------------------------------------------


def test_an_oom_killed_job_fails_with_errbacks_and_evidence(either: ClusterStack, key: str) -> None:
    errbacks = [
        either.shop.old_errback.s(f"{key}-errback"),
        either.shop.new_errback.s(f"{key}-errback"),
    ]
    result = either.shop.recorded.apply_async((key, "hold"), queue=GPU, link_error=errbacks)
    assert [either.told(key) for _ in range(3)][:2] == ["before_start", "__call__"]
    either.cluster.faults.oom_kill(either.pod_name(result.id))
    with pytest.raises(
        HostOutOfMemory, match=r"(?s)exit code 137.*OOMKilled.*node node-a"
    ) as caught:
        result.get(PATIENCE)
    assert "out of host memory" in str(caught.value)
    assert either.told(key) == "on_failure HostOutOfMemory"
    assert sorted(either.told(f"{key}-errback")[0] for _ in range(2)) == ["new", "old"]
    record = ended(either, result, "HOST_OOM")
    assert (record["exit_code"], record["container_reason"], record["node"]) == (
        137,
        "OOMKilled",
        "node-a",
    )
    assert record["container_started"] <= record["container_finished"]


def test_the_error_of_a_crash_has_exit_code_and_node(either: ClusterStack, key: str) -> None:
    result = either.shop.leave.apply_async(("os._exit",), queue=GPU)
    with pytest.raises(ExecutorDied, match=r"exit code 4.*node node-a"):
        result.get(PATIENCE)
    assert ended(either, result, "ERROR")["exit_code"] == 4


def test_an_evicted_job_runs_again_in_a_new_pod(either: ClusterStack, key: str) -> None:
    result = either.shop.hold.apply_async((key,), queue=GPU)
    first = either.told(key)["pid"]
    either.cluster.faults.evict(either.pod_name(result.id))
    second = either.told(key)["pid"]
    assert first != second
    either.go(key)
    assert result.get(PATIENCE) == key
    assert ended(either, result, "SUCCEEDED")["attempt"] == 2


def test_a_job_evicted_while_its_application_is_imported_runs_again(
    either: ClusterStack, key: str
) -> None:
    result = either.shop.hold.apply_async((key,), queue=GPU)
    either.in_state(result.id, "running")
    either.cluster.faults.evict(either.pod_name(result.id))
    until(
        lambda: either.known(result.id)["attempt"] == 2,
        PATIENCE,
        "a new attempt",
        lambda: str(either.record(result.id)),
    )
    either.go(key, 2)
    assert result.get(PATIENCE) == key


@pytest.mark.parametrize("grace", [None, 0], ids=["in its time", "by force"])
def test_a_job_that_is_drained_without_evictions_runs_again(
    quick: ClusterStack, key: str, grace: int | None
) -> None:
    """As `kubectl drain --disable-eviction` does: it cordons the node, and deletes the pods."""
    result = quick.shop.hold.apply_async((key,), queue=GPU)
    first = quick.told(key)["pid"]
    quick.cluster.faults.cordon("node-a")
    try:
        quick.cluster.faults.delete_pod(quick.pod_name(result.id), grace)
        until(
            lambda: (quick.record(result.id) or {}).get("disruptions") == 1,
            PATIENCE,
            "a new attempt is due",
            lambda: str(quick.record(result.id)),
        )
    finally:
        quick.cluster.faults.cordon("node-a", on=False)
    assert quick.told(key)["pid"] != first
    quick.go(key)
    assert result.get(PATIENCE) == key
    assert ended(quick, result, "SUCCEEDED")["disruptions"] == 1


def test_a_job_fails_when_its_pod_is_deleted_by_hand(either: ClusterStack, key: str) -> None:
    result = either.shop.hold.apply_async((key,), queue=GPU)
    either.told(key)
    either.cluster.faults.delete_pod(either.pod_name(result.id))
    with pytest.raises(PodDeleted, match="deleted"):
        result.get(PATIENCE)
    ended(either, result, "POD_DELETED")


def test_a_cancelled_job_is_revoked_when_its_pod_is_gone(either: ClusterStack, key: str) -> None:
    result = either.shop.hold.apply_async((key,), queue=GPU)
    pid = either.told(key)["pid"]
    job = either.known(result.id)["instance"].split("/")[1]
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError, match="terminated"):
        result.get(PATIENCE)
    assert either.cluster.job(job) is None
    assert not any(pid in either.cluster.pids(pod) for pod in either.cluster.pods())
    ended(either, result, "CANCELLED")


def test_the_log_of_a_job_outlives_its_pod(either: ClusterStack, key: str) -> None:
    result = either.shop.tell_of.apply_async((key, "done"), queue=GPU)
    assert result.get(PATIENCE) == "done"
    record = ended(either, result, "SUCCEEDED")
    assert "succeeded" in until(lambda: either.log_of(record), PATIENCE, "the log is kept")


# -- before it runs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "words"),
    [("NOT-A/Valid::Name", "InvalidImageName"), ("registry.example/absent:1", "absent:1")],
    ids=["no name at all", "one that its registry does not have"],
)
def test_an_image_that_does_not_exist_ends_the_job(
    shop: ModuleType, quick: ClusterStack, image: str, words: str
) -> None:
    quick.cluster.faults.registries_answer(404)
    result = shop.add.apply_async((1, 1), **gpu("t4", image=image))
    with pytest.raises(ImageUnusable, match=words):
        result.get(PATIENCE)
    assert ended(quick, result, "IMAGE")["attempt"] == 1
    until(
        lambda: (
            not quick.cluster.jobs()
            or all(quick.known(result.id)["id"] not in str(job) for job in quick.cluster.jobs())
        ),
        PATIENCE,
        "its Job is deleted",
    )
    quick.cluster.faults.registries_answer(200)


def test_an_image_that_may_not_be_named_is_refused(stack_of_few_images: ClusterStack) -> None:
    stack = stack_of_few_images
    with pytest.raises(
        InvalidJob, match=r"gpu\.image='other:1' is not an allowed image.*GPU_IMAGE_ALLOW"
    ):
        stack.shop.add.apply_async((1, 1), **gpu("t4", image="other:1")).get(PATIENCE)


def test_what_no_node_can_take_waits_in_the_schedulers_words(
    stack_elsewhere: ClusterStack,
) -> None:
    stack = stack_elsewhere
    result = stack.shop.add.apply_async((1, 1), queue=GPU, expires=8)
    until(
        lambda: (stack.record(result.id) or {}).get("wait") == "UNSCHEDULABLE",
        PATIENCE,
        "what it waits for is noted",
        lambda: str(stack.record(result.id)),
    )
    [place] = until(lambda: held(stack), PATIENCE, "its class is held")
    assert place.kind == "scheduling" and "0/1 nodes are available" in place.error
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(PATIENCE)


def held(stack: ClusterStack) -> list[Place]:
    return places.set_aside(places.of(stack.client, "t4"))


@pytest.fixture(scope="module")
def small_stacks(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]
) -> Iterator[Callable[..., ClusterStack]]:
    from tests.support.cluster_stack import ClusterStack

    with ExitStack() as made:

        def make(env: dict[str, str], **cluster: Any) -> ClusterStack:
            stack = ClusterStack(tmp_path_factory.mktemp("small"), env, **cluster)
            made.enter_context(listed(running_stacks, stack))
            stack.dispatcher()
            return stack

        yield make


@pytest.fixture
def stack_of_few_images(small_stacks: Callable[..., ClusterStack]) -> ClusterStack:
    return small_stacks({"GPU_IMAGE_ALLOW": "trusted.example/*"})


@pytest.fixture
def stack_elsewhere(small_stacks: Callable[..., ClusterStack]) -> ClusterStack:
    return small_stacks({"GPU_NODE_SELECTOR_KEY": "zone", "GPU_NODE_SELECTOR_VALUE": "nowhere"})


def test_a_quota_that_refuses_the_pod_is_waited_for(shop: ModuleType, quick: ClusterStack) -> None:
    with quota(quick, {"requests.nvidia.com/gpu": "0"}):
        result = shop.add.apply_async((1, 1), queue=GPU)
        [place] = until(lambda: held(quick), PATIENCE, "its class is held")
        assert place.kind == "quota" and "exceeded quota" in place.error
    assert result.get(PATIENCE) == 2


def test_a_quota_that_refuses_the_job_is_waited_for(shop: ModuleType, quick: ClusterStack) -> None:
    with quota(quick, {"count/jobs.batch": "0"}):
        result = shop.add.apply_async((1, 1), queue=GPU)
        until(
            lambda: (quick.record(result.id) or {}).get("wait") == "QUOTA",
            PATIENCE,
            "it waits for the quota",
        )
    assert result.get(PATIENCE) == 2


def quota(stack: ClusterStack, hard: dict[str, str]) -> AbstractContextManager[None]:
    @contextmanager
    def limited() -> Iterator[None]:
        name = "limit"
        stack.cluster.create(QUOTAS, {"metadata": {"name": name}, "spec": {"hard": hard}})
        try:
            yield
        finally:
            stack.cluster.registry.delete(QUOTAS, stack.cluster.namespace, name, Deletion())

    return limited()


# -- container jobs --------------------------------------------------------------------------------


def run(stack: ClusterStack, *command: Any, **more: Any) -> AsyncResult:
    return stack.app.send_task(
        "gpuqueue.run",
        kwargs={"image": "shop:1", "command": list(command), **more.pop("call", {})},
        **{"queue": GPU} | more,
    )


def test_a_container_job_answers_exit_code_message_and_log(quick: ClusterStack) -> None:
    program = (
        "import os; open('/dev/termination-log', 'w').write('{\"loss\": 0.5}'); print('trained',"
        " os.environ['N'])"
    )
    result = run(quick, "python3", "-c", program, call={"env": {"N": 3}})
    assert result.get(PATIENCE) == {"exit_code": 0, "message": {"loss": 0.5}, "log": "trained 3\n"}
    record = ended(quick, result, "SUCCEEDED")
    assert record["started"] and record["exit_code"] == 0


def test_a_container_job_hands_its_answer_on(
    shop: ModuleType, quick: ClusterStack, key: str
) -> None:
    chained = (
        quick.app.signature(
            "gpuqueue.run",
            kwargs={"image": "shop:1", "command": ["python3", "-c", "print('y')"]},
            queue=GPU,
        )
        | shop.echo.s().set(queue="celery")
    ).apply_async()
    assert chained.get(PATIENCE) == {"exit_code": 0, "message": "", "log": "y\n"}


def test_the_error_of_a_container_job_has_exit_code_and_log(
    quick: ClusterStack, shop: ModuleType, key: str
) -> None:
    result = run(
        quick, "python3", "-c", "import sys; print('no data', file=sys.stderr); sys.exit(3)"
    )
    with pytest.raises(ContainerFailed, match=r"(?s)exit code 3.*no data"):
        result.get(PATIENCE)
    ended(quick, result, "ERROR")


def test_a_container_whose_program_is_missing_cannot_be_launched(quick: ClusterStack) -> None:
    result = run(quick, "/no/such/program")
    with pytest.raises(LaunchFailed, match="no such file"):
        result.get(PATIENCE)
    assert ended(quick, result, "BAD_SPEC")["attempt"] == 1


def test_a_container_job_shows_started_while_it_runs_and_is_cancelled(quick: ClusterStack) -> None:
    result = run(quick, "python3", "-c", "import time; time.sleep(60)")
    until(lambda: result.state == "STARTED", PATIENCE, "it is STARTED", lambda: result.state)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    ended(quick, result, "CANCELLED")


def test_a_container_job_that_is_malformed_is_refused(quick: ClusterStack) -> None:
    with pytest.raises(
        InvalidJob, match=r"gpuqueue\.run command=.* is a string; use a list of words"
    ):
        quick.app.send_task(
            "gpuqueue.run", kwargs={"image": "x:1", "command": "nvidia-smi"}, queue=GPU
        ).get(PATIENCE)
