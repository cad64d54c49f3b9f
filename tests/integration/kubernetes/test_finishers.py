"""A finish in the application's code has its time from the start of its container on, and waits for
a pod that the cluster refuses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from gpuqueue.errors import HostOutOfMemory
from gpuqueue.model.place import Place
from gpuqueue.store import places
from tests.support.cluster_stack import ClusterStack
from tests.support.launching import IMAGE
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]
#: Seconds that the image takes, more than the finish may.
PULL, FINISH = 9, 7


@pytest.fixture
def stack_of(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]
) -> Iterator[Callable[..., ClusterStack]]:
    with ExitStack() as made:

        def make(**env: str) -> ClusterStack:
            stack = ClusterStack(tmp_path_factory.mktemp("finishers"), env)
            made.enter_context(listed(running_stacks, stack))
            stack.dispatcher()
            return stack

        yield make


def finishers(stack: ClusterStack) -> list[str]:
    found = [pod["metadata"]["name"] for pod in stack.cluster.pods()]
    return [name for name in found if name.startswith("gpu-finish-")]


def test_an_image_that_is_pulled_for_long_does_not_fail_the_finish(
    stack_of: Callable[..., ClusterStack], key: str
) -> None:
    stack = stack_of(GPUQUEUE_FINISH_TIMEOUT=str(FINISH), GPU_IMAGE_PULL_TIMEOUT="60")
    result = stack.shop.recorded.apply_async((key, "hold"), queue="gpu.t4.shared")
    assert [stack.told(key) for _ in range(3)][:2] == ["before_start", "__call__"]
    # From now on no node has the image.
    stack.cluster.images[IMAGE] = dataclasses.replace(
        stack.cluster.images[IMAGE], pull_seconds=PULL
    )
    stack.cluster.faults.oom_kill(stack.pod_name(result.id))
    with pytest.raises(HostOutOfMemory):
        result.get(PATIENCE)
    assert stack.told(key) == "on_failure HostOutOfMemory"
    record = stack.in_state(result.id, "ended")
    assert record["ended"] - record["container_finished"] >= PULL
    assert len(finishers(stack)) == 1


def jobs_refused(stack: ClusterStack, why: str | None) -> None:
    stack.cluster.faults.policy("jobs", why)


def pods_refused(stack: ClusterStack, why: str | None) -> None:
    stack.cluster.faults.policy("pods", why)


def registry_away(stack: ClusterStack, why: str | None) -> None:
    if why:  # no node has the image any more
        stack.cluster.images[IMAGE] = dataclasses.replace(
            stack.cluster.images[IMAGE], pull_seconds=0.01
        )
    stack.cluster.faults.registries_answer(503 if why else 200)


OBSTACLES: dict[str, tuple[Callable[[ClusterStack, str | None], None], str, str]] = {
    "Jobs refused": (jobs_refused, "cost-center label is required", "finishes:t4"),
    "pods refused": (pods_refused, "cost-center label is required", "finishes:t4"),
    "registry away": (registry_away, "503", f"finishes:{IMAGE}"),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_finishes_wait_for_a_pod_that_the_cluster_refuses(
    stack_of: Callable[..., ClusterStack], key: str, obstacle: str
) -> None:
    stand_in_the_way, words, place = OBSTACLES[obstacle]
    stack = stack_of(GPU_QUOTA_TIMEOUT="1", GPUQUEUE_FINISH_TRIES="2")
    keys = [f"{key}-{number}" for number in range(3)]
    results = [
        stack.shop.recorded.apply_async((each, "hold"), queue="gpu.t4.shared") for each in keys
    ]
    for each in keys:
        assert [stack.told(each) for _ in range(3)][:2] == ["before_start", "__call__"]
    stand_in_the_way(stack, words)
    for result in results:
        stack.cluster.faults.oom_kill(stack.pod_name(result.id))

    def held() -> list[Place]:
        return places.set_aside(places.of(stack.client, "t4"))

    until(lambda: [each.name for each in held()] == [place], PATIENCE, "the finishes are held")
    assert words in held()[0].error
    until(lambda: held()[0].pause >= 8, PATIENCE, "the pause grows", lambda: str(held()))
    records = [stack.known(result.id) for result in results]
    assert {each["state"] for each in records} == {"finishing"}
    assert all(words in each["finish_error"] for each in records)
    assert not any(result.ready() for result in results)
    stack.idle()  # their slots are free

    stand_in_the_way(stack, None)
    for each, result in zip(keys, results, strict=True):
        with pytest.raises(HostOutOfMemory) as caught:
            result.get(2 * PATIENCE)
        assert "could not be finished" not in str(caught.value)
        assert stack.told(each) == "on_failure HostOutOfMemory"
        assert stack.told_so_far(each) == []
    until(lambda: held() == [], PATIENCE, "nothing is held any more", lambda: str(held()))
    assert {stack.in_state(result.id, "ended")["reason"] for result in results} == {"HOST_OOM"}


def test_a_hold_with_an_end_lets_the_dispatcher_finish(
    stack_of: Callable[..., ClusterStack], key: str
) -> None:
    stack = stack_of(GPU_HELD_TIMEOUT="4")
    result = stack.shop.recorded.apply_async((key, "hold"), queue="gpu.t4.shared")
    assert [stack.told(key) for _ in range(3)][:2] == ["before_start", "__call__"]
    jobs_refused(stack, "cost-center label is required")
    stack.cluster.faults.oom_kill(stack.pod_name(result.id))
    with pytest.raises(HostOutOfMemory, match=r"could not be finished.*cost-center"):
        result.get(PATIENCE)
