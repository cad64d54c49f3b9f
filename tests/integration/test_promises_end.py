"""However a GPU job ends before its time, its caller learns of it: revoked, left, killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from billiard.exceptions import WorkerLostError
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from gpuqueue import ExecutorDied
from gpuqueue.model.names import worker_name
from tests.support.celery_series import needs_late_revoked, needs_lost_retries
from tests.support.processes import is_running
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
GPU, ALONE = "gpu.t4.shared", "gpu.t4.exclusive"


@pytest.fixture
def busy(shop: ModuleType, stack: Stack, key: str) -> Iterator[None]:
    """The exclusive slot is taken until the test ends."""
    blocker = shop.hold.apply_async((f"{key}-busy",), queue=ALONE)
    stack.told(f"{key}-busy")
    yield
    stack.go(f"{key}-busy")
    blocker.get(PATIENCE)
    stack.idle()


# -- revoke ----------------------------------------------------------------------------------------


def test_a_waiting_job_that_is_revoked_never_runs(
    shop: ModuleType, stack: Stack, key: str, busy: None
) -> None:
    result = shop.tell_of.apply_async((key, "ran"), queue=ALONE)
    stack.in_state(result.id, "waiting")
    result.revoke()
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(PATIENCE)
    assert (result.state, stack.in_state(result.id, "ended")["reason"]) == ("REVOKED", "CANCELLED")
    assert stack.told_so_far(key) == []


def test_a_delayed_job_that_is_revoked_never_runs(shop: ModuleType, stack: Stack, key: str) -> None:
    result = shop.tell_of.apply_async((key, "ran"), queue=GPU, countdown=300)
    stack.in_state(result.id, "delayed")
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    assert stack.in_state(result.id, "ended")["reason"] == "CANCELLED"


@needs_late_revoked
def test_a_running_job_is_revoked_only_when_its_process_is_gone(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    result = shop.stubborn.apply_async((key,), queue=GPU)
    pid = stack.told(key)["pid"]
    result.revoke(terminate=True)
    assert stack.told(key) == "terminating"
    assert result.state == "STARTED" and result.id in stack.holders()
    stack.go(key)
    until(
        lambda: result.state == "REVOKED" and not is_running(pid),
        PATIENCE,
        "revoked",
        lambda: result.state,
    )
    with pytest.raises(TaskRevokedError, match="terminated"):
        result.get(PATIENCE)


@needs_late_revoked
def test_a_job_that_ignores_its_end_is_killed_after_the_grace(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    result = shop.stubborn.apply_async((key,), queue=GPU)
    pid = stack.told(key)["pid"]
    result.revoke(terminate=True)
    assert stack.told(key) == "terminating"
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    assert not is_running(pid)


@pytest.mark.local_only("Kubernetes sends SIGTERM, and SIGKILL after the grace")
def test_the_signal_of_a_revoke_is_the_callers_to_choose(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    result = shop.stubborn.apply_async((key,), queue=GPU)
    stack.told(key)
    result.revoke(terminate=True, signal="SIGKILL")
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    assert stack.told_so_far(key) == []


@pytest.mark.local_only("Kubernetes sends SIGTERM, and SIGKILL after the grace")
def test_a_revoke_by_the_signal_of_soft_limits_lets_the_task_tidy_up(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    result = shop.tidy_up.apply_async((key, "tell"), queue=GPU)
    assert stack.told(key) == "started"
    result.revoke(terminate=True, signal="SIGUSR1")
    assert stack.told(key) == "tidied"
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)


@needs_late_revoked
def test_revoke_without_terminate_leaves_a_running_job_alone(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    result = shop.hold.apply_async((key,), queue=GPU)
    stack.told(key)
    result.revoke()
    # The answer comes after the revoke.
    assert shop.app.control.ping([worker_name("t4")], timeout=PATIENCE, limit=1)
    stack.go(key)
    assert result.get(PATIENCE) == key


def test_a_revoke_of_an_ended_job_is_forgotten(shop: ModuleType, stack: Stack, key: str) -> None:
    assert shop.echo.apply_async((1,), queue=GPU, task_id=key).get(PATIENCE) == 1
    stack.in_state(key, "ended")
    assert shop.app.control.revoke(key, reply=True, timeout=PATIENCE, limit=1)
    shop.tell_of.apply_async((key, "again"), queue=GPU, task_id=key)
    assert stack.told(key) == "again"


def test_a_job_revoked_before_a_dispatcher_has_it_is_revoked_when_it_comes(
    stack_factory: Callable[..., Stack], key: str
) -> None:
    stack = stack_factory()
    dispatcher = stack.dispatcher()
    control = stack.app.control
    until(  # a class answers once its dispatcher speaks for it
        lambda: control.cancel_consumer("gpu.t4.shared", reply=True),
        PATIENCE,
        "its messages stay in their list",
    )
    results = [stack.shop.tell_of.apply_async((key, "ran"), queue=GPU) for _ in range(2)]
    results[0].revoke()
    until(
        lambda: stack.client.hlen("gpuqueue:1:{t4}:revoked"),
        PATIENCE,
        "the revocation is remembered",
    )
    assert control.ping(timeout=PATIENCE, limit=1) and results[0].state == "PENDING"
    dispatcher.restart()
    with pytest.raises(TaskRevokedError):
        results[0].get(PATIENCE)
    assert results[1].get(PATIENCE) == "ran"
    assert stack.told_so_far(key) == ["ran"]


def test_revoke_by_stamped_headers_reaches_waiting_running_and_later_jobs(
    shop: ModuleType, stack: Stack, key: str, busy: None
) -> None:
    def send(queue: str) -> AsyncResult:
        signature = shop.hold.s(key).set(queue=queue)
        signature.stamp(order=key)
        return signature.apply_async()

    waiting = send(ALONE)
    stack.in_state(waiting.id, "waiting")
    shop.app.control.revoke_by_stamped_headers({"order": [key]}, terminate=True)
    with pytest.raises(TaskRevokedError):
        waiting.get(PATIENCE)
    later = send(ALONE)
    with pytest.raises(TaskRevokedError):
        later.get(PATIENCE)
    assert stack.told_so_far(key) == []


def test_a_running_job_is_terminated_by_its_stamp(shop: ModuleType, stack: Stack, key: str) -> None:
    signature = shop.hold.s(key).set(queue=GPU)
    signature.stamp(order=key)
    result = signature.apply_async()
    pid = stack.told(key)["pid"]
    shop.app.control.revoke_by_stamped_headers({"order": [key]}, terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    assert not is_running(pid)


# -- death -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("sys.exit", "exit code 3"),
        ("os._exit", "exit code 4"),
        ("SIGKILL", r"signal 9 \(SIGKILL\)"),
    ],
)
def test_a_task_that_leaves_without_a_word_fails_with_what_happened(
    shop: ModuleType, stack: Stack, key: str, how: str, words: str
) -> None:
    result = shop.leave.apply_async((how,), queue=GPU, link_error=shop.new_errback.s(key))
    with pytest.raises(ExecutorDied, match=words):
        result.get(PATIENCE)
    assert stack.told(key)[:3] == ["new", result.id, "ExecutorDied"]
    assert stack.in_state(result.id, "ended")["reason"] == "ERROR"


#: The application's own worker, which loses a process of its pool, then the GPU.
LOSING = pytest.mark.parametrize("queue", [pytest.param("celery", marks=pytest.mark.slow), GPU])


@LOSING
def test_a_task_that_comes_back_runs_again_when_its_process_is_lost(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    result = shop.comes_back.apply_async((key,), queue=queue)
    assert [stack.told(key), stack.told(key)] == [[False, 0], [True, 0]]
    assert result.get(PATIENCE) == "stayed"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sys.exit", "os._exit", "SIGKILL"])
def test_a_task_comes_back_as_often_as_a_job_gets_attempts(
    shop: ModuleType, stack: Stack, key: str, how: str
) -> None:
    result = shop.comes_back.apply_async(
        (key, how, 9), queue=GPU, link_error=shop.new_errback.s(f"{key}-e")
    )
    with pytest.raises(ExecutorDied):
        result.get(2 * PATIENCE)
    assert stack.told(f"{key}-e")[:3] == ["new", result.id, "ExecutorDied"]
    assert stack.told_so_far(key) == [[False, 0], [True, 0], [True, 0]]


@needs_lost_retries
@LOSING
def test_a_task_that_is_retried_when_its_process_is_lost_counts_retries(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    result = shop.is_retried.apply_async((key,), queue=queue)
    assert [stack.told(key), stack.told(key)] == [[False, 0], [False, 1]]
    assert result.get(PATIENCE) == "stayed"
    name = "ExecutorDied" if queue == GPU else "WorkerLostError"
    assert stack.told(f"{key}-hook") == [name, 0]


@pytest.mark.slow
@needs_lost_retries
@LOSING
def test_a_task_whose_process_is_lost_after_its_last_retry_fails(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    result = shop.is_retried.apply_async((key, "os._exit", 9), queue=queue)
    with pytest.raises(ExecutorDied if queue == GPU else WorkerLostError):
        result.get(2 * PATIENCE)
    assert stack.told_so_far(key) == [[False, 0], [False, 1], [False, 2]]
    if queue == GPU:
        stack.in_state(result.id, "ended")
        reasons = [stack.reader.record("t4", f"{result.id}{each}") for each in ("", "~1", "~2")]
        assert [each and each["reason"] for each in reasons] == ["RETRIED", "RETRIED", "ERROR"]


def test_an_executor_killed_from_outside_ends_its_job_exactly_once(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    errbacks = [shop.lone_errback.s(), shop.new_errback.s(f"{key}-errback")]
    result = shop.recorded.apply_async((key, "hold"), queue=GPU, link_error=errbacks)
    pid = [stack.told(key) for _ in range(3)][-1]["pid"]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ExecutorDied, match="out of host memory, or killed by hand"):
        result.get(PATIENCE)
    stack.in_state(result.id, "ended")
    assert stack.told(key) == "on_failure ExecutorDied"
    assert [stack.told(f"{key}-errback")[0], stack.told(result.id)[0]] == ["new", "old"]
    stack.idle()
    assert shop.add.apply_async((1, 1), queue=GPU).get(PATIENCE) == 2
    told = [stack.told_so_far(each) for each in (key, f"{key}-errback", result.id)]
    assert told == [[], [], []]
