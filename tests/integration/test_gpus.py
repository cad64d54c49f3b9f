"""GPUs dealt to jobs on one machine: two cards, as a stand-in for NVML shows them; everything else
is real.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import pytest

from gpuqueue import gpu
from gpuqueue.errors import InvalidJob
from tests.support.command_line import run_command
from tests.support.nodes import APPS, FAKE_GPUS
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.local_only("on Kubernetes the device plugin hands GPUs out"),
]
FIRST, SECOND, THIRD = "GPU-0000aaaa-0000", "GPU-1111bbbb-1111", "GPU-2222cccc-2222"


@pytest.fixture
def machine(stack_factory: Callable[..., Stack]) -> Callable[..., Stack]:
    """A stack on a machine with two GPUs."""

    def start(**env: str) -> Stack:
        path = os.pathsep.join(map(str, (FAKE_GPUS, APPS)))
        slots = {
            "T4_SHARED_SLOTS": "4",
            "T4_EXCLUSIVE_SLOTS": "2",
            "GPUQUEUE_DEVICES": "",
            "CUDA_VISIBLE_DEVICES": f"{FIRST},{SECOND}",
        }
        return stack_factory({"PYTHONPATH": path} | slots | env)

    return start


def given(stack: Stack, key: str, queue: str, jobs: int) -> Counter[str]:
    """The GPUs that as many jobs at once were given."""
    results = [stack.shop.hold_gpu.apply_async((key,), queue=queue) for _ in range(jobs)]
    seen = Counter(stack.told(key) for _ in results)
    stack.go(key, jobs)
    assert Counter(result.get(PATIENCE) for result in results) == seen
    return seen


def test_shared_jobs_spread_over_gpus_and_exclusive_jobs_get_one_each(
    machine: Callable[..., Stack], key: str
) -> None:
    stack = machine()
    stack.dispatcher()
    assert given(stack, key, "gpu.t4.shared", 4) == {FIRST: 2, SECOND: 2}
    assert given(stack, key, "gpu.t4.exclusive", 2) == {FIRST: 1, SECOND: 1}


def told(stack: Stack, *command: str) -> str:
    """What a command of gpuqueue prints."""
    done = run_command(command, env={**os.environ, **stack.env})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_exclusive_job_takes_one_gpu_while_shared_jobs_share_the_other(
    machine: Callable[..., Stack], key: str
) -> None:
    """Each GPU is a domain by itself; the slots are those of one."""
    stack = machine(T4_SHARED_SLOTS="2", T4_EXCLUSIVE_SLOTS="1")
    stack.dispatcher()
    results = [stack.shop.hold_gpu.apply_async((key,), queue="gpu.t4.shared") for _ in range(2)]
    assert [stack.told(key) for _ in results] == [FIRST, FIRST]
    results.append(stack.shop.hold_gpu.apply_async((key,), queue="gpu.t4.exclusive"))
    assert stack.told(key) == SECOND
    later = stack.shop.hold_gpu.apply_async((key,), queue="gpu.t4.shared")
    stack.in_state(later.id, "waiting")
    assert "shared 2/4, exclusive 1/2" in told(stack, "status")
    assert "GPUs  0: shared 2/2 | 1: exclusive 1/1" in told(stack, "status")
    assert "NO_FREE_SLOT" in told(stack, "why", later.id)
    stack.go(key, 4)
    assert sorted(each.get(PATIENCE) for each in [*results, later])[-1] == SECOND


def test_a_gpu_that_vanishes_leaves_exclusive_jobs_alone_on_theirs(
    machine: Callable[..., Stack], key: str
) -> None:
    three = {"FAKE_GPUS": "3", "CUDA_VISIBLE_DEVICES": f"{FIRST},{SECOND},{THIRD}"}
    stack = machine(T4_SHARED_SLOTS="2", T4_EXCLUSIVE_SLOTS="1", **three)
    before = stack.dispatcher()
    results = [stack.shop.hold_gpu.apply_async((key,), queue="gpu.t4.shared")]
    assert stack.told(key) == FIRST
    results.append(stack.shop.hold_gpu.apply_async((key,), queue="gpu.t4.exclusive"))
    assert stack.told(key) == SECOND
    before.stop()
    stack.env["CUDA_VISIBLE_DEVICES"] = f"{SECOND},{THIRD}"
    stack.dispatcher()
    results += [stack.shop.hold_gpu.apply_async((key,), queue="gpu.t4.shared") for _ in range(3)]
    assert [stack.told(key) for _ in range(2)] == [THIRD, THIRD]
    stack.in_state(results[-1].id, "waiting")
    assert "GPUs  0: exclusive 1/1 | 1: shared 2/2" in told(stack, "status")
    assert "NO_FREE_SLOT" in told(stack, "why", results[-1].id)
    stack.go(key, 5)
    assert results[1].get(PATIENCE) == SECOND
    assert sorted(each.get(PATIENCE) for each in results[:4]) == [FIRST, SECOND, THIRD, THIRD]
    results[4].get(PATIENCE)


def test_a_job_of_two_gpus_gets_both_and_frees_both(
    machine: Callable[..., Stack], key: str
) -> None:
    stack = machine()
    stack.dispatcher()
    two = gpu("t4", isolation="exclusive", gpus=2)
    first = stack.shop.hold_gpu.apply_async((key,), **two)
    assert stack.told(key) == f"{FIRST},{SECOND}"
    later = stack.shop.hold_gpu.apply_async((key,), **gpu("t4", isolation="exclusive"))
    stack.in_state(later.id, "waiting")
    assert "exclusive 2/2" in told(stack, "status")
    assert "NO_FREE_SLOT" in told(stack, "why", later.id)
    stack.go(key, 2)
    assert first.get(PATIENCE) == f"{FIRST},{SECOND}"
    assert later.get(PATIENCE) == FIRST
    three = stack.shop.hold_gpu.apply_async((key,), **gpu("t4", isolation="exclusive", gpus=3))
    with pytest.raises(InvalidJob, match=r"^gpu\.gpus=3 exceeds the exclusive slots of class 't4'"):
        three.get(PATIENCE)


def test_jobs_are_given_none_but_the_gpus_that_the_operator_allows(
    machine: Callable[..., Stack], key: str
) -> None:
    stack = machine(GPUQUEUE_DEVICES="1", T4_EXCLUSIVE_SLOTS="1")
    stack.dispatcher()
    assert given(stack, key, "gpu.t4.shared", 2) == {SECOND: 2}


def test_jobs_see_no_gpu_where_the_operator_allows_none(
    machine: Callable[..., Stack], key: str
) -> None:
    stack = machine(GPUQUEUE_DEVICES="none")
    stack.dispatcher()
    assert given(stack, key, "gpu.t4.shared", 1) == {"": 1}


def test_more_exclusive_slots_than_gpus_are_refused_at_start(machine: Callable[..., Stack]) -> None:
    stack = machine(T4_EXCLUSIVE_SLOTS="3")
    dispatcher = stack.dispatcher(ready=False)
    until(lambda: dispatcher.container.exit_code is not None, PATIENCE, "it has ended")
    assert dispatcher.container.exit_code == 78
    assert (
        "class t4 has 3 exclusive slots and 2 GPUs; an exclusive job needs a GPU for itself"
        in dispatcher.logs()
    )


def test_a_gpu_is_given_again_when_its_job_was_killed(
    machine: Callable[..., Stack], key: str
) -> None:
    stack = machine(GPUQUEUE_DEVICES="0", T4_EXCLUSIVE_SLOTS="1")
    stack.dispatcher()
    lost = stack.shop.hold_gpu.apply_async((key,), queue="gpu.t4.exclusive")
    assert stack.told(key) == FIRST
    lost.revoke(terminate=True)
    assert given(stack, key, "gpu.t4.exclusive", 1) == {FIRST: 1}


def test_a_job_that_was_given_no_gpu_and_misses_it_fails_by_itself(
    machine: Callable[..., Stack], key: str
) -> None:
    stack = machine(GPUQUEUE_DEVICES="none")
    stack.dispatcher()
    result = stack.shop.wear_out.apply_async(
        (key, 9, "No CUDA GPUs are available"), queue="gpu.t4.shared"
    )
    with pytest.raises(RuntimeError, match=r"^No CUDA GPUs are available$"):
        result.get(PATIENCE)
    stack.go(f"{key}-left")
    assert stack.in_state(result.id, "ended")["reason"] == "ERROR"
    assert stack.told_so_far(key) == [[1, 0]]
