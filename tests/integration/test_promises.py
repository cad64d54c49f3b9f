"""What Celery promises of one task holds for a task on a GPU queue. The sender is a plain Celery
application.

``queue`` runs a test twice: on the application's own worker, plain Celery, and as a GPU job.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from celery.exceptions import MaxRetriesExceededError, Reject, TaskRevokedError
from kombu.exceptions import EncodeError
from stock import OutOfStock

from gpuqueue import gpu
from tests.support.celery_series import needs_failed_rejects, needs_results_ignored_by_name
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
GPU = "gpu.t4.shared"


def test_a_result_comes_back(shop: ModuleType, queue: str) -> None:
    assert shop.add.apply_async((2, 3), queue=queue).get(PATIENCE) == 5


def test_a_route_of_the_application_alone_is_enough(stack: Stack, shop: ModuleType) -> None:
    result = shop.gpu_double.delay(21)
    assert result.get(PATIENCE) == 42
    assert stack.known(result.id)["gpu_class"] == "t4"


def test_the_options_of_gpu_are_those_of_apply_async(stack: Stack, shop: ModuleType) -> None:
    result = shop.describe.apply_async(
        **gpu("t4", isolation="exclusive", memory="9GiB", tenant="vision", time_limit=60)
    )
    seen = result.get(PATIENCE)
    assert seen["gpu"] == {"isolation": "exclusive", "memory": 9 * 2**30, "tenant": "vision"}
    assert seen["timelimit"] == [60, None]
    assert stack.known(result.id)["isolation"] == "exclusive"


def test_a_signature_takes_the_options_of_gpu(shop: ModuleType) -> None:
    assert shop.add.s(1, 2).set(**gpu("t4", isolation="shared")).apply_async().get(PATIENCE) == 3


def test_a_task_is_sent_by_name_by_a_client_that_has_not_its_code(stack: Stack) -> None:
    assert stack.app.send_task("shop.gpu_double", (4,)).get(PATIENCE) == 8


def test_the_caller_names_the_task_id(shop: ModuleType, queue: str, key: str) -> None:
    result = shop.echo.apply_async(("named",), queue=queue, task_id=f"order/{key}~1")
    assert (result.id, result.get(PATIENCE)) == (f"order/{key}~1", "named")


def test_an_id_is_sent_again_as_soon_as_its_end_is_known(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    with pytest.raises(OutOfStock):
        shop.fail.apply_async(("OutOfStock",), queue=queue, task_id=key).get(PATIENCE)
    shop.tell_of.apply_async((key, "again"), queue=queue, task_id=key)
    assert stack.told(key) == "again"

    def meta() -> dict[str, Any]:  # of this moment: results are cached by their id
        found: dict[str, Any] = shop.app.backend.get_task_meta(key, cache=False)
        return found

    until(lambda: meta()["status"] == "SUCCESS", PATIENCE, "its other result")
    assert meta()["result"] == "again"
    shop.tell_of.apply_async((key, "once more"), queue=queue, task_id=key)
    assert stack.told(key) == "once more"


def test_the_result_of_an_earlier_run_is_none_of_the_next(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    assert shop.echo.apply_async(("first",), queue=GPU, task_id=key).get(PATIENCE) == "first"
    errback = shop.new_errback.s(f"{key}-errback")
    shop.leave.apply_async(("status 0",), queue=GPU, task_id=key, link_error=errback)
    assert stack.told(f"{key}-errback")[:3] == ["new", key, "ExecutorDied"]
    record = stack.in_state(key, "ended")
    assert (record["reason"], record["exit_code"]) == ("ERROR", 0)
    assert shop.app.backend.get_result(key) == "first", "Celery stores nothing over a success"


def test_an_id_whose_retry_went_to_another_queue_is_free_here(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    shop.again_on.apply_async((f"other-{key}",), queue=GPU, task_id=key)
    stack.in_state(key, "ended")
    assert stack.client.llen(f"other-{key}") == 1
    shop.tell_of.apply_async((key, "again"), queue=GPU, task_id=key)
    assert stack.told(key) == "again"


# -- failures --------------------------------------------------------------------------------------


def test_an_exception_comes_back_with_its_type_and_traceback(shop: ModuleType, queue: str) -> None:
    result = shop.fail.apply_async(queue=queue)
    with pytest.raises(ValueError, match="no ValueError"):
        result.get(PATIENCE)
    assert 'raise OutOfStock("pears", 3) if how' in result.traceback
    assert result.traceback.rstrip().endswith("ValueError: no ValueError")


def test_an_exception_of_the_application_comes_back_as_its_own_type(
    shop: ModuleType, queue: str
) -> None:
    with pytest.raises(OutOfStock) as caught:
        shop.fail.apply_async(("OutOfStock",), queue=queue).get(PATIENCE)
    assert (caught.value.fruit, caught.value.wanted) == ("pears", 3)


def test_a_result_that_is_no_json_fails_as_in_plain_celery(shop: ModuleType, queue: str) -> None:
    result = shop.unserializable.apply_async(queue=queue)
    with pytest.raises(EncodeError):
        result.get(PATIENCE)
    assert result.state == "FAILURE"


def test_a_task_that_never_begins_fails_with_what_its_before_start_raised(
    stack: Stack, shop: ModuleType, queue: str
) -> None:
    result = shop.never_begins.apply_async(queue=queue)
    with pytest.raises(OutOfStock):
        result.get(PATIENCE)
    if queue == GPU:
        stack.in_state(result.id, "ended")
        assert isinstance(shop.app.AsyncResult(result.id).result, OutOfStock), (
            "the application's error is kept"
        )


@needs_failed_rejects
def test_a_rejected_message_fails_with_its_errbacks(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    result = shop.turn_away.apply_async(
        ("reject",), queue=queue, link_error=shop.new_errback.s(key)
    )
    with pytest.raises(Reject, match="not today"):
        result.get(PATIENCE)
    assert stack.told(key)[:3] == ["new", result.id, "Reject"]


def test_a_message_that_is_rejected_with_requeue_is_delivered_again(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    result = shop.put_off.apply_async((key,), queue=queue)
    assert [stack.told(key), stack.told(key)] == [False, True], "the task sees the redelivery"
    assert result.get(PATIENCE) == "done"


@pytest.mark.slow
def test_a_loop_of_rejections_slows_down_and_can_be_cancelled(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    result = shop.put_off.apply_async((key, True), queue=GPU)
    assert [stack.told(key), stack.told(key)] == [False, True]
    record = stack.in_state(result.id, "delayed")
    assert (record["wait"], record["requeues"], result.state) == ("REQUEUED", 2, "STARTED")
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)


def test_ignore_leaves_no_result(stack: Stack, shop: ModuleType) -> None:
    result = shop.turn_away.apply_async(("ignore",), queue=GPU)
    stack.in_state(result.id, "ended")
    assert result.state not in ("SUCCESS", "FAILURE", "REVOKED")
    assert stack.known(result.id)["reason"] == "IGNORED"


# -- retries ---------------------------------------------------------------------------------------


def test_retries_are_counted_and_keep_the_gpu_header_and_the_stamps(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    asked = {"isolation": "shared", "tenant": "retail"}
    signature = shop.try_until.s(2, key).set(queue=queue, headers={"gpu": asked})
    signature.stamp(order="o-17")
    assert signature.apply_async().get(PATIENCE) == 2
    seen = [stack.told(key) for _ in range(3)]
    assert [each["stamps"] for each in seen] == [{"order": "o-17"}] * 3
    assert [each["retries"] for each in seen] == [0, 1, 2]
    assert [each["gpu"] for each in seen] == [asked] * 3


def test_a_retry_shows_retry_while_it_waits(shop: ModuleType, stack: Stack, queue: str) -> None:
    result = shop.again_later.apply_async((2,), queue=queue)
    until(lambda: result.state == "RETRY", PATIENCE, "the task has asked for a retry")
    if queue != "celery":
        until(
            lambda: stack.known(result.id)["state"] == "delayed",
            PATIENCE,
            "the retry waits for its time",
        )
        assert result.state == "RETRY"
    assert result.get(PATIENCE) == "again"


def test_autoretry_makes_max_retries_and_raises_the_last_error(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    with pytest.raises(OutOfStock) as caught:
        shop.sell_out.apply_async((key,), queue=queue).get(PATIENCE)
    assert caught.value.wanted == 2
    assert stack.told_so_far(key) == [0, 1, 2]


def test_too_many_retries_raise_max_retries_exceeded(shop: ModuleType, queue: str) -> None:
    with pytest.raises(MaxRetriesExceededError, match=r"Can't retry shop\.give_up"):
        shop.give_up.apply_async(queue=queue).get(PATIENCE)


def test_too_many_retries_raise_the_error_that_retry_was_given(
    shop: ModuleType, queue: str
) -> None:
    with pytest.raises(OutOfStock, match="2 figs wanted"):
        shop.give_up.apply_async(("figs",), queue=queue).get(PATIENCE)


def test_each_retry_is_a_separate_delivery_and_all_end(stack: Stack, shop: ModuleType) -> None:
    result = shop.try_until.apply_async((1,), queue=GPU)
    assert result.get(PATIENCE) == 1
    stack.in_state(result.id, "ended")
    first, second = (
        stack.reader.record("t4", result.id),
        stack.reader.record("t4", f"{result.id}~1"),
    )
    assert first is not None and second is not None
    assert (first["reason"], second["reason"]) == ("RETRIED", "SUCCEEDED")


# -- states ----------------------------------------------------------------------------------------


def test_a_state_of_the_task_itself_is_seen_while_it_runs(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    result = shop.pack.apply_async((key,), queue=queue)
    assert stack.told(key) == "packing"
    assert (result.state, result.info) == ("PACKING", {"boxes": 2})
    stack.go(key)
    assert result.get(PATIENCE) == "packed"


def test_a_running_job_is_started_with_its_process(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    result = shop.hold.apply_async((key,), queue=GPU)
    pid = stack.told(key)["pid"]
    assert (result.state, result.info["pid"]) == ("STARTED", pid)
    stack.go(key)
    assert result.get(PATIENCE) == key


def test_a_waiting_job_is_queued(shop: ModuleType, stack: Stack, key: str) -> None:
    first = shop.hold.apply_async((key,), queue="gpu.t4.exclusive")
    stack.told(key)
    second = shop.add.apply_async((1, 1), queue="gpu.t4.exclusive")
    until(
        lambda: second.state == "QUEUED", PATIENCE, "the second job is QUEUED", lambda: second.state
    )
    stack.go(key)
    assert (first.get(PATIENCE), second.get(PATIENCE)) == (key, 2)


# -- ignore_result ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "by",
    [
        "its class",
        pytest.param("its class, sent by name", marks=needs_results_ignored_by_name),
        "an option",
    ],
)
def test_a_result_that_is_ignored_leaves_nothing_behind(
    shop: ModuleType, stack: Stack, key: str, queue: str, by: str
) -> None:
    if by == "its class":
        result = shop.quiet.apply_async((key,), queue=queue)
    elif by == "an option":
        result = shop.tell_of.apply_async((key, "done"), queue=queue, ignore_result=True)
    else:
        result = stack.app.send_task("shop.quiet", (key,), queue=queue)
    assert stack.told(key) == "done"
    if queue == GPU:
        stack.in_state(result.id, "ended")
    assert stack.client.keys(f"celery-task-meta-{result.id}") == []


# -- what a task sees ------------------------------------------------------------------------------


def test_a_task_sees_the_same_request_as_in_plain_celery(shop: ModuleType) -> None:
    sent = {
        "shadow": "shop.shown",
        "priority": 3,
        "time_limit": 50,
        "soft_time_limit": 40,
        "reply_to": None,
    }
    sent |= {"headers": {"custom": "yes"}, "kwargs": {}}
    on_cpu, on_gpu = (
        shop.describe.apply_async(queue=queue, **sent).get(PATIENCE) for queue in ("celery", GPU)
    )
    own = ("id", "pid", "hostname", "root_id", "correlation_id", "reply_to", "delivery_info")
    assert {name: seen for name, seen in on_gpu.items() if name not in own} == {
        name: seen for name, seen in on_cpu.items() if name not in own
    }
    assert on_gpu["delivery_info"] == on_cpu["delivery_info"] | {
        "exchange": "",
        "routing_key": GPU,
    } | {"exchange": on_gpu["delivery_info"]["exchange"]}
    assert on_gpu["root_id"] == on_gpu["correlation_id"] == on_gpu["id"]
    assert on_gpu["hostname"].startswith(f"t4-{on_gpu['id']}-1@")
    assert (on_gpu["shadow"], on_gpu["custom"], on_gpu["retries"]) == ("shop.shown", "yes", 0)


def test_stamped_headers_are_seen_by_the_task(shop: ModuleType, queue: str) -> None:
    signature = shop.describe.s().set(queue=queue)
    signature.stamp(order="o-17")
    assert signature.apply_async().get(PATIENCE)["stamps"] == {"order": "o-17"}


def test_a_megabyte_goes_there_and_back(shop: ModuleType, queue: str) -> None:
    big = "ü" * 500_000
    assert shop.echo.apply_async((big,), queue=queue).get(PATIENCE) == big


def test_a_compressed_message_is_read(shop: ModuleType, queue: str) -> None:
    assert (
        shop.echo.apply_async(("z" * 10_000,), queue=queue, compression="zlib").get(PATIENCE)
        == "z" * 10_000
    )


def test_a_message_of_protocol_1_is_read(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    amqp = shop.app.amqp
    with shop.app.producer_pool.acquire() as producer:
        amqp.send_task_message(
            producer,
            "shop.add",
            amqp.as_task_v1(key, "shop.add", (1, 2), {}, time_limit=30),
            queue=queue,
        )
    assert shop.app.AsyncResult(key).get(PATIENCE) == 3


# -- hooks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "hooks"),
    [
        ("well", ["before_start", "__call__", "on_success", "after_return SUCCESS"]),
        ("fail", ["before_start", "__call__", "on_failure OutOfStock", "after_return FAILURE"]),
    ],
)
def test_the_hooks_of_a_task_class_are_called_in_order(
    shop: ModuleType, stack: Stack, queue: str, key: str, how: str, hooks: list[Any]
) -> None:
    shop.recorded.apply_async((key, how), queue=queue)
    assert [stack.told(key) for _ in hooks] == hooks


def test_on_retry_is_called_once_between_two_tries(
    shop: ModuleType, stack: Stack, queue: str, key: str
) -> None:
    assert shop.recorded.apply_async((key, "retry"), queue=queue).get(PATIENCE) == "retry"
    heard = [stack.told(key) for _ in range(7)]
    # The second try may begin before the first has called on_retry: in plain Celery, too.
    assert sorted(heard) == sorted(
        ["before_start", "__call__"] * 2 + ["on_retry", "on_success", "after_return SUCCESS"]
    )
