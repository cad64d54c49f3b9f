"""A job that runs out of GPU memory runs once more in a larger place: it stays one job."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from celery.result import AsyncResult

from gpuqueue.model.reasons import EndReason
from gpuqueue.model.tenant import TenantRule
from gpuqueue.store.keys import class_key
from gpuqueue.store.tenants import Tenants
from tests.property.moving import A100, LEASE, T4, Moving

pytestmark = pytest.mark.integration
OOM, AGAIN, DONE = EndReason.GPU_OOM, EndReason.ESCALATED, EndReason.SUCCEEDED
CRASHES = ("after the claim", "before the move", "after the move", "after the end")


@pytest.fixture
def moving(schedule_redis: redis.Redis) -> Moving:
    return Moving(schedule_redis)


# -- to another class ------------------------------------------------------------------------------


def test_the_record_names_the_larger_place_or_that_there_is_none(moving: Moving) -> None:
    moving.send()
    assert moving.record("t4")["larger"] == "a100 exclusive"
    moving.send(queue="gpu.a100", tag="other", retries=1)
    assert moving.record("a100", "a~1")["larger"] == "none"
    moving.send(queue="gpu.t4.shared", escalate=False, retries=2)
    assert "larger" not in moving.record("t4", "a~2")


@pytest.mark.parametrize("confirmed", [True, False], ids=["confirmed", "killed before that"])
def test_a_job_out_of_memory_moves_to_the_larger_class(moving: Moving, confirmed: bool) -> None:
    moving.send()
    released = moving.run(AGAIN, confirmed=confirmed)
    assert (released.freed, released.state) == (True, "moving")
    assert released.error == "out of GPU memory in t4 (exclusive)"
    assert not moving.reader.holders("t4")
    moving.finish()
    old, new = moving.record("t4"), moving.record("a100")
    assert (old["state"], old["reason"], old["larger"]) == ("ended", AGAIN, "a100 exclusive")
    assert (new["state"], new["escalated"]) == ("launching", "t4 exclusive")
    assert new["error"] == "out of GPU memory in t4 (exclusive)"
    assert "larger" not in new
    # Its attempts are counted on, and none is used up.
    assert (new["attempt"], new["spared"]) == (2, 1)
    assert moving.run(DONE).state == "ended"
    assert moving.accounts() == [("t4", 1, AGAIN), ("a100", 2, DONE)]
    assert moving.live() == []


def test_a_moved_job_has_the_limits_of_its_class_and_may_fail_as_often(moving: Moving) -> None:
    moving.send()
    moving.run(AGAIN)
    moving.finish()
    assert moving.record("a100")["time_limit"] == A100.max_time_limit
    record, _ = moving.claim()
    assert moving.ends(record, EndReason.INFRA).state == "delayed"


@pytest.mark.parametrize("where", CRASHES)
@pytest.mark.parametrize("meanwhile", ["nothing", "it ends", "it is retried and ends"])
def test_a_finisher_killed_anywhere_leaves_one_job(
    moving: Moving, where: str, meanwhile: str
) -> None:
    moving.send()
    moving.run(AGAIN)
    moving.crashes = {where}
    moving.finish()
    assert not moving.crashes, "it was killed"
    # In the larger class it goes on, if it is there.
    if meanwhile != "nothing" and moving.started:
        if meanwhile == "it ends":
            moving.run(DONE)
        else:
            moving.send(retries=1)
            moving.run(EndReason.RETRIED)
            assert moving.run(DONE).state == "ended"
    moving.finish()
    moving.finish()
    while moving.started:
        moving.run(DONE)
    assert moving.live() == []
    ends = [reason for _, _, reason in moving.accounts()]
    assert (ends.count(AGAIN), ends.count(DONE)) == (1, 1)
    assert moving.record("t4")["reason"] == AGAIN
    assert {name for name, *_ in moving.accounts()} == {"t4", "a100"}


def test_a_finisher_whose_claim_has_expired_ends_nothing(moving: Moving) -> None:
    moving.send()
    moving.run(AGAIN)
    claimed = moving.line.finish_claim("t4", "a", "slow", LEASE)
    assert claimed[0] == "ok"
    moving.finish()
    assert not moving.line.finished("t4", "a", "slow", "GPU_OOM")
    assert moving.record("t4")["reason"] == AGAIN


@pytest.mark.parametrize("when", ["while it runs", "before it moves", "while it moves", "there"])
def test_a_revoke_reaches_a_job_that_moves(moving: Moving, when: str) -> None:
    def revoke() -> None:
        for name in ("t4", "a100"):
            moving.line.cancel(name, "a")

    def and_revoke(record: Any, packed: Any) -> str:
        why = moving._move(record, packed)
        revoke()
        return why

    moving.send()
    record, executor = moving.claim()
    executor.report(AGAIN)
    if when == "while it runs":
        revoke()
    moving.ends(record)
    if when == "before it moves":
        revoke()
    moving.finish(and_revoke if when == "while it moves" else None)
    if when == "there":
        revoke()
    for each in list(moving.started):  # it never begins: its executor may not claim it
        moving.started.remove(each)
        moving.ends(each)
    for _ in range(3):
        moving.finish()
    newest = moving.reader.find("a", ["t4", "a100"])
    assert newest and (newest["state"], newest["reason"]) == ("ended", EndReason.CANCELLED)
    answers = [moving.line.cancel(name, "a") for name in ("t4", "a100")]
    assert sorted(answers) == ["ended", "unknown"], "one class has it"
    assert moving.live() == []


def test_a_class_that_is_not_configured_ends_the_job_out_of_memory(moving: Moving) -> None:
    moving.send()
    moving.run(AGAIN)
    classes: Any = moving.accept.classes
    del classes["a100"]
    moving.finish()
    record = moving.record("t4")
    assert record["finish_error"] == "its larger class 'a100' is not configured"
    for _ in range(3):
        moving.now += 60
        moving.finish()
    record = moving.record("t4")
    assert (record["state"], record["reason"]) == ("ended", OOM)
    with pytest.raises(Exception, match=r"out of GPU memory in t4 \(exclusive\);.*not configured"):
        AsyncResult("a", app=moving.app).get(1)
    assert moving.reader.record("a100", "a") is None


def test_a_job_with_the_id_in_the_larger_class_is_another_one(moving: Moving) -> None:
    moving.send(queue="gpu.a100", tag="first", escalate=False)
    moving.started.clear()
    moving.send(tag="second")
    moving.run(AGAIN)
    moving.finish()
    error = moving.record("t4")["finish_error"]
    assert error == "another job with its id is in class 'a100'"


def test_an_ended_run_of_the_same_id_keeps_no_job_from_moving(moving: Moving) -> None:
    for tag in ("first", "second"):
        assert moving.send(tag=tag) == "accepted"
        assert moving.run(AGAIN).state == "moving"
        moving.finish()
        assert moving.run(DONE).state == "ended"
    assert [name for name, *_ in moving.accounts()] == ["t4", "a100"] * 2


def test_a_tenant_with_a_full_line_loses_no_job_that_moves(moving: Moving) -> None:
    moving.send()
    Tenants(moving.client).set("a100", {"*": TenantRule(max_queued=0)})
    moving.run(AGAIN)
    moving.finish()
    assert moving.record("a100")["state"] == "launching"


def test_a_lost_message_ends_the_job_out_of_memory(moving: Moving) -> None:
    moving.send()
    record, executor = moving.claim()
    executor.report(AGAIN)
    moving.client.hdel(class_key("t4", "messages"), "a")
    assert moving.ends(record).state == "finishing"
    found = moving.record("t4")
    assert (found["reason"], found["error"]) == (OOM, "out of GPU memory in t4 (exclusive)")
    assert moving.accounts() == [("t4", 1, OOM)]


# -- in its own class ------------------------------------------------------------------------------


def test_a_shared_job_out_of_memory_runs_alone_in_its_class(moving: Moving) -> None:
    moving.send("gpu.t4.shared")
    assert moving.record("t4")["larger"] == "t4 exclusive"
    released = moving.run(AGAIN)
    assert (released.state, released.error) == ("waiting", "out of GPU memory in t4 (shared)")
    found = moving.record("t4")
    assert found["state"] == "launching", "its slot is free"
    assert (found["isolation"], found["escalated"]) == ("exclusive", "t4 shared")
    assert not {"larger", "outcome"} & set(found)
    assert (found["attempt"], found["spared"]) == (2, 1)
    assert moving.run(DONE).state == "ended"
    assert moving.accounts() == [("t4", 1, AGAIN), ("t4", 2, DONE)]


def test_a_repeated_release_changes_nothing(moving: Moving) -> None:
    moving.send("gpu.t4.shared")
    record, executor = moving.claim()
    executor.report(AGAIN)
    moving.ends(record)
    before = moving.record("t4")
    assert not moving.ends(record).freed
    assert moving.record("t4") == before
    assert moving.accounts() == [("t4", 1, AGAIN)]


def test_a_job_that_waits_to_run_alone_keeps_its_arrival(moving: Moving) -> None:
    moving.send("gpu.t4.shared")
    other: Any = {"delivery": "b", "id": "b", "isolation": "shared", "gpu_class": "t4"}
    moving.started += moving.line.take_in(T4, other, "{}").granted
    late: Any = {"delivery": "c", "id": "c", "isolation": "exclusive", "gpu_class": "t4"}
    moving.line.take_in(T4, late, "{}")
    held = moving.started.pop()
    assert moving.run(AGAIN).state == "waiting"
    why = moving.reader.why(T4, "a")
    assert why and (why.place, why.reason) == (1, "SHARED_RUNNING")
    moving.ends(held)
    assert [each["delivery"] for each in moving.started] == ["a"]


def test_a_revoke_while_a_shared_job_ends_cancels_it(moving: Moving) -> None:
    moving.send("gpu.t4.shared")
    record, executor = moving.claim()
    executor.report(AGAIN)
    assert moving.line.cancel("t4", "a") == "finishing"
    assert moving.ends(record).state == "finishing"
    assert moving.record("t4")["reason"] == EndReason.CANCELLED


# -- once ------------------------------------------------------------------------------------------


def test_an_observed_end_out_of_memory_moves_the_job_too(moving: Moving) -> None:
    moving.send()
    record, _ = moving.claim()
    assert moving.ends(record, OOM).state == "moving"
    moving.finish()
    record, _ = moving.claim()
    assert record["gpu_class"] == "a100"
    assert moving.ends(record, OOM).state == "finishing"
    assert moving.record("a100")["reason"] == OOM
    assert moving.accounts() == [("t4", 1, AGAIN), ("a100", 2, OOM)]


def test_a_job_that_did_not_ask_for_it_ends_out_of_memory(moving: Moving) -> None:
    moving.send(escalate=False)
    record, _ = moving.claim()
    assert moving.ends(record, OOM).state == "finishing"
    found = moving.record("t4")
    assert (found["reason"], found["error"]) == (OOM, "exit code 0")


def test_an_observed_end_in_the_largest_class_says_so(moving: Moving) -> None:
    moving.send("gpu.a100")
    record, _ = moving.claim()
    assert moving.ends(record, OOM).state == "finishing"
    found = moving.record("a100")
    error = "out of GPU memory in a100 (exclusive); no class that fits it is larger"
    assert (found["reason"], found["error"]) == (OOM, error)


@pytest.mark.parametrize("reason", [EndReason.ERROR, EndReason.HOST_OOM])
def test_another_end_moves_no_job(moving: Moving, reason: EndReason) -> None:
    moving.send()
    record, _ = moving.claim()
    assert moving.ends(record, reason).state == "finishing"
    assert moving.record("t4")["reason"] == reason


def test_an_end_before_the_claim_moves_no_job(moving: Moving) -> None:
    moving.send()
    assert moving.ends(moving.started.pop(), OOM).state == "delayed"
    assert moving.record("t4")["larger"] == "a100 exclusive"


def test_a_report_of_a_job_without_a_larger_place_ends_it(moving: Moving) -> None:
    moving.send(escalate=False)
    assert moving.run(AGAIN).state == "finishing"
    assert moving.record("t4")["reason"] == OOM
    assert moving.accounts() == [("t4", 1, OOM)]


@pytest.mark.parametrize("queue", ["gpu.t4.exclusive", "gpu.t4.shared"])
def test_a_redelivery_of_a_job_that_has_moved_is_known(moving: Moving, queue: str) -> None:
    moving.send(queue)
    moving.run(AGAIN)
    assert moving.send(queue) == "known"
    moving.finish()
    assert moving.send(queue) == "known"
    moving.run(DONE)
    assert moving.send(queue) == "known"
    assert moving.live() == []


@pytest.mark.parametrize(
    ("queue", "place"),
    [("gpu.t4.exclusive", ("a100", "exclusive")), ("gpu.t4.shared", ("t4", "exclusive"))],
)
def test_a_retry_of_a_job_that_has_moved_stays_in_the_larger_place(
    moving: Moving, queue: str, place: tuple[str, str]
) -> None:
    moving.send(queue)
    moving.run(AGAIN)
    moving.finish()
    assert moving.send(queue, retries=1) == "accepted"
    moving.run(EndReason.RETRIED)
    [(name, isolation, state)] = moving.live()
    assert ((name, isolation), state) == (place, "launching")
    retry = moving.record(name, "a~1")
    assert "escalated" in retry
    assert "larger" not in retry


def test_an_id_that_is_sent_again_begins_in_its_own_place(moving: Moving) -> None:
    moving.send()
    moving.run(AGAIN)
    moving.finish()
    assert moving.send(tag="again") == "known", "it runs"
    moving.run(DONE)
    assert moving.send(tag="again") == "accepted"
    [(name, _, state)] = moving.live()
    assert (name, state) == ("t4", "launching")
