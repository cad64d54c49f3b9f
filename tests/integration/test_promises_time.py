"""Celery's clocks hold for GPU jobs: countdown and eta, expires, hard and soft time limits,
priorities.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from types import ModuleType

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

from tests.support.processes import is_running
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
GPU = "gpu.t4.shared"


@pytest.mark.parametrize("by", ["countdown", "eta"])
def test_a_job_with_an_eta_starts_no_earlier_and_blocks_no_other_job(
    shop: ModuleType, stack: Stack, key: str, by: str
) -> None:
    stack.idle()
    due = time.time() + 1.5
    when = (
        {"countdown": 1.5}
        if by == "countdown"
        else {"eta": datetime.now(UTC) + timedelta(seconds=1.5)}
    )
    later = shop.tell_of.apply_async((key, "at last"), queue=GPU, **when)
    assert stack.in_state(later.id, "delayed")["eta"] == pytest.approx(due, abs=0.1)
    assert stack.holders() == []
    assert shop.add.apply_async((1, 1), queue=GPU).get(PATIENCE) == 2
    assert stack.told(key) == "at last"
    assert time.time() >= due - 0.1
    assert not stack.client.exists("gpuqueue.unacked_index")
    until(lambda: not stack.client.hlen(f"gpuqueue:1:{{{GPU}}}:texts"), what="no message in hand")


def test_a_job_that_expires_while_it_waits_is_revoked_and_never_runs(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    blocker = shop.hold.apply_async((key,), queue="gpu.t4.exclusive")
    stack.told(key)
    late = shop.tell_of.apply_async((key, "too late"), queue="gpu.t4.exclusive", expires=0.5)
    with pytest.raises(TaskRevokedError, match="expired"):
        late.get(PATIENCE)
    assert late.state == "REVOKED"
    stack.go(key)
    blocker.get(PATIENCE)
    stack.idle()
    assert (stack.told_so_far(key), stack.known(late.id)["reason"]) == ([], "EXPIRED")


def test_a_job_that_starts_in_time_does_not_expire(shop: ModuleType) -> None:
    assert shop.add.apply_async((1, 1), queue=GPU, expires=60).get(PATIENCE) == 2


def test_a_hard_time_limit_kills_the_task_with_a_typed_error(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    result = shop.hold.apply_async(
        (key,), queue=queue, time_limit=1, link_error=shop.lone_errback.s()
    )
    pid = stack.told(key)["pid"]
    with pytest.raises(TimeLimitExceeded):
        result.get(PATIENCE)
    assert stack.told(result.id) == ["old", result.id]
    if queue == GPU:
        assert not is_running(pid)
        assert stack.known(result.id)["reason"] == "TIME_LIMIT"


def test_a_hard_limit_of_the_task_itself_holds_when_it_is_sent_by_name(
    stack: Stack, key: str
) -> None:
    result = stack.app.send_task("shop.endless", (key,), queue=GPU)
    stack.told(key)
    with pytest.raises(TimeLimitExceeded, match="1"):
        result.get(PATIENCE)


def test_a_hard_limit_calls_the_applications_hook_and_errback(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    options = {"queue": GPU, "time_limit": 1, "link_error": shop.new_errback.s(f"{key}-errback")}
    result = shop.recorded.apply_async((key, "hold"), **options)
    heard = [stack.told(key) for _ in range(4)]
    assert [each for each in heard if isinstance(each, str)] == [
        "before_start",
        "__call__",
        "on_failure TimeLimitExceeded",
    ]
    assert stack.told(f"{key}-errback")[:3] == ["new", result.id, "TimeLimitExceeded"]


def test_a_soft_limit_is_raised_in_the_task_which_may_tidy_up(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    result = shop.tidy_up.apply_async((key,), queue=queue, soft_time_limit=0.5, time_limit=30)
    assert result.get(PATIENCE) == "tidied"


def test_a_soft_limit_that_the_task_does_not_catch_is_its_failure(
    shop: ModuleType, queue: str, key: str
) -> None:
    result = shop.tidy_up.apply_async(
        (key, "raise"), queue=queue, soft_time_limit=0.5, time_limit=30
    )
    with pytest.raises(SoftTimeLimitExceeded) as caught:
        result.get(PATIENCE)
    assert caught.value.args == ()


# -- order -----------------------------------------------------------------------------------------


def test_jobs_of_priority_0_start_before_those_of_9(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    first = shop.hold.apply_async((key,), queue="gpu.t4.exclusive")
    stack.told(key)
    sent = [
        shop.tell_of.apply_async(
            (f"{key}-order", priority), queue="gpu.t4.exclusive", priority=priority
        )
        for priority in (9, 5, 0)
    ]
    for each in sent:
        stack.in_state(each.id, "waiting")
    stack.go(key)
    first.get(PATIENCE)
    assert [stack.told(f"{key}-order") for _ in sent] == [0, 5, 9]
