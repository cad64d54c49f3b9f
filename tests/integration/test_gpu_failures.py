"""What an executor tells of its GPU: out of memory, failed, and how much of its memory was taken.
NVML and torch are made up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from celery.result import AsyncResult

from gpuqueue import ExecutorDied
from gpuqueue.store.keys import class_key
from tests.support.nodes import APPS, FAKE_GPUS
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
GPU = "gpu.t4.shared"
FIRST, SECOND = "GPU-0000aaaa-0000", "GPU-1111bbbb-1111"
GIB = 2**30
ECC = "CUDA error: uncorrectable ECC error encountered"


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack], kind: str
) -> Iterator[Stack]:
    """A stack whose executors find two cards, of which local ones are dealt the first, and a torch;
    two attempts at most.
    """
    env = {
        "PYTHONPATH": os.pathsep.join(map(str, (FAKE_GPUS, APPS))),
        "GPUQUEUE_DEVICES": "0",
        "CUDA_VISIBLE_DEVICES": f"{FIRST},{SECOND}",
        "GPUQUEUE_MAX_ATTEMPTS": "2",
    }
    with listed(running_stacks, Stack(tmp_path_factory.mktemp("gpu"), env, kind=kind)) as made:
        made.dispatcher()
        yield made


@pytest.fixture
def shop(stack: Stack) -> ModuleType:
    """The application, once no other job runs: that one's failures of the GPU would speak against
    it together with those of the test, and cost that no attempts.
    """
    stack.idle()
    stack.client.delete(class_key("t4", "places"))
    return stack.shop


@pytest.fixture
def seen(kind: str) -> tuple[str, int]:
    """What NVML shows to an executor: UUIDs and memory taken."""
    return (FIRST, 3 * GIB) if kind == "local" else (f"{FIRST},{SECOND}", 6 * GIB)


def figures(stack: Stack, result: AsyncResult) -> tuple[Any, ...]:
    record = stack.record(result.id) or {}
    return record.get("gpu"), record.get("gpu_memory_peak"), record.get("gpu_memory_own")


# -- figures ---------------------------------------------------------------------------------------


def test_the_record_has_the_gpu_and_its_memory_during_and_after_the_job(
    shop: ModuleType, stack: Stack, key: str, seen: tuple[str, int]
) -> None:
    result = shop.train.apply_async((key, 2 * GIB), queue=GPU)
    until(
        lambda: figures(stack, result) == (*seen, 2 * GIB),
        PATIENCE,
        "figures",
        lambda: str(stack.record(result.id)),
    )
    stack.go(key)
    assert result.get(PATIENCE) == "return"
    stack.in_state(result.id, "ended")
    assert figures(stack, result) == (*seen, 2 * GIB)


def test_the_memory_of_torch_is_known_for_a_job_shorter_than_one_sample(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    stack.go(key)
    result = shop.train.apply_async((key, GIB), queue=GPU)
    assert result.get(PATIENCE) == "return"
    assert stack.in_state(result.id, "ended")["gpu_memory_own"] == GIB


# -- out of memory ---------------------------------------------------------------------------------


def test_a_job_out_of_gpu_memory_keeps_its_exception_and_gets_its_reason(
    shop: ModuleType, stack: Stack, key: str, seen: tuple[str, int]
) -> None:
    errback = shop.new_errback.s(f"{key}-errback").set(queue=GPU)
    result = shop.train.apply_async((key, 15 * GIB, "run out"), queue=GPU, link_error=errback)
    until(lambda: figures(stack, result)[0], PATIENCE, "the first figures")
    stack.go(key)
    with pytest.raises(
        Exception, match=r"^CUDA out of memory\. Tried to allocate 20\.00 GiB\.$"
    ) as failed:
        result.get(PATIENCE)
    assert (type(failed.value).__name__, result.state) == ("OutOfMemoryError", "FAILURE")
    ended = stack.in_state(result.id, "ended")
    assert (ended["reason"], ended["attempt"]) == ("GPU_OOM", 1)
    assert figures(stack, result) == (*seen, 15 * GIB)
    assert stack.told(f"{key}-errback")[:3] == ["new", result.id, "OutOfMemoryError"]
    stack.idle()
    assert "on_failure OutOfMemoryError" in stack.told_so_far(key)


def test_a_soft_time_limit_while_memory_is_short_is_not_out_of_memory(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    result = shop.shrink.apply_async((key,), queue=GPU)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(PATIENCE)
    assert stack.in_state(result.id, "ended")["reason"] == "ERROR"


# -- the GPU's own failure -------------------------------------------------------------------------


def test_a_job_whose_gpu_fails_once_is_tried_again(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    result = shop.wear_out.apply_async((key, 1), queue=GPU)
    assert result.get(PATIENCE) == 2
    ended = stack.in_state(result.id, "ended")
    assert (ended["reason"], ended["attempt"]) == ("SUCCEEDED", 2)
    assert [stack.told(key), stack.told(key)] == [[1, 0], [2, 0]]


def test_a_job_whose_gpus_fail_as_often_as_attempts_are_allowed_fails(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    errback = shop.new_errback.s(f"{key}-errback").set(queue=GPU)
    result = shop.wear_out.apply_async((key, 9), queue=GPU, link_error=errback)
    with pytest.raises(
        ExecutorDied, match="gave up after 2 attempts, the last: the GPU failed under the job"
    ):
        result.get(PATIENCE)
    ended = stack.in_state(result.id, "ended")
    assert (ended["reason"], ended["attempt"], ended["gpu_error"]) == (
        "INFRA",
        2,
        f"RuntimeError: {ECC}",
    )
    assert [stack.told(key), stack.told(key)] == [[1, 0], [2, 0]]
    assert stack.told(f"{key}-errback")[:3] == ["new", result.id, "ExecutorDied"]
    assert stack.told_so_far(key) == []


def test_a_retry_that_the_task_asks_for_when_its_gpu_fails_is_a_retry(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    result = shop.wear_out.apply_async((key, 1), {"retry": True}, queue=GPU)
    assert result.get(PATIENCE) == 1
    assert [stack.told(key), stack.told(key)] == [[1, 0], [1, 1]]
    stack.go(f"{key}-left")
    stack.idle()
    first = stack.reader.record("t4", result.id)
    assert first is not None and first["reason"] == "RETRIED"
