"""Single rules of a release, each where it alone decides."""

from __future__ import annotations

from typing import Any

import pytest

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.keys import class_key
from gpuqueue.store.turn import Turns
from tests.property.one_job import T4, World

pytestmark = pytest.mark.integration
STARTED = {"container_started": 1_000_000.0}


def known(world: World) -> Record:
    record = world.record()
    assert record is not None
    return record


def container(world: World) -> None:
    record: Any = {"delivery": "a", "id": "a", "isolation": "shared", "gpu_class": "t4"}
    [granted] = world.line.take_in(T4, record | {"container": {"image": "x"}}, "{}").granted
    world.token = granted["token"]
    assert world.call("launched")


def ends(world: World, reason: EndReason, **evidence: Any) -> Any:
    end = End(reason, "gone", evidence=evidence)
    return world.line.release(T4, Attempt("t4", "a", 1), end, "h:n:1")


def test_a_report_counts_more_than_a_launch_that_was_given_up(world: World) -> None:
    world.bring("launching")
    assert world.call("give_up", reason="QUOTA", tried="never")
    claimed = {"instance": "h:n:1", "worker": "w", "started": world.now}
    assert world.call("report", outcome="ERROR", claimed=claimed) == "ok"
    ends(world, EndReason.ERROR)
    assert (known(world)["state"], known(world)["reason"]) == ("finishing", "ERROR")


def test_a_report_counts_more_than_an_import_that_was_not_told(world: World) -> None:
    world.bring("launching")
    assert world.call("claim", loads_within=5)[0] == "ok"
    assert world.call("report", outcome="ERROR") == "ok"
    ends(world, EndReason.ERROR)
    assert (known(world)["state"], known(world)["reason"]) == ("finishing", "ERROR")


def test_an_import_that_can_never_work_is_not_tried_again(world: World) -> None:
    world.bring("launching")
    assert world.call("claim", loads_within=5)[0] == "ok"
    ends(world, EndReason.BAD_SPEC)
    assert (known(world)["state"], known(world)["reason"]) == ("finishing", "BAD_SPEC")


def test_a_container_that_has_begun_is_not_started_again(world: World) -> None:
    container(world)
    ends(world, EndReason.ERROR, **STARTED)
    assert (known(world)["state"], known(world)["reason"]) == ("finishing", "ERROR")


def test_a_container_that_has_not_begun_is_started_again(world: World) -> None:
    container(world)
    ends(world, EndReason.ERROR)
    assert known(world)["state"] == "delayed"


def test_a_container_that_was_given_up_ends_for_that_reason(world: World) -> None:
    container(world)
    assert world.call("give_up", reason="QUOTA", error="no quota", tried="never")
    ends(world, EndReason.ERROR, **STARTED)
    assert (known(world)["reason"], known(world)["error"]) == ("QUOTA", "no quota")


def test_a_container_that_was_not_seen_to_start_in_time_starts_again(world: World) -> None:
    container(world)
    world.now += 61
    world.line.tick("t4")
    assert known(world)["timed_out"] == "start"
    ends(world, EndReason.ERROR, **STARTED)
    assert known(world)["state"] == "delayed"


def test_a_repeated_end_of_a_container_does_not_revive_its_job(world: World) -> None:
    container(world)
    ends(world, EndReason.ERROR, **STARTED)
    assert world.call("finish_claim")[0] == "ok"
    assert world.call("finished")
    ends(world, EndReason.ERROR, **STARTED)
    assert known(world)["state"] == "ended"


def test_a_repeated_end_of_a_container_takes_no_finish_from_its_finisher(world: World) -> None:
    container(world)
    ends(world, EndReason.ERROR, **STARTED)
    assert world.call("finish_claim")[0] == "ok"
    ends(world, EndReason.ERROR, **STARTED)
    assert world.call("finish_claim", finisher="g") == ["busy"]


def test_a_late_end_of_a_container_tells_nothing_of_its_next_attempt(world: World) -> None:
    container(world)
    ends(world, EndReason.INFRA)
    world.now += 5
    [turn] = Turns(world.client, world.line).take([T4])
    assert not isinstance(turn, Exception) and turn.granted[0]["attempt"] == 2
    assert ends(world, EndReason.ERROR, **STARTED).state == "launching"
    assert known(world)["state"] == "launching"


def test_a_job_that_has_ended_leaves_no_message(world: World) -> None:
    world.bring("reporting")
    assert world.client.hexists(class_key("t4", "messages"), "a")
    assert world.call("reported")
    assert not world.client.exists(class_key("t4", "messages"))


def test_a_report_after_the_time_limit_is_refused(world: World) -> None:
    world.bring("running")
    world.client.zadd(class_key("t4", "deadlines"), {"a#1": world.now + 1})
    world.now += 2
    world.line.tick("t4")
    assert world.call("report") == "out of time"
    assert known(world)["state"] == "running"


@pytest.mark.parametrize("outcome", ["GPU_OOM", "SUCCEEDED"])
def test_only_a_success_that_could_not_be_stored_is_a_failure(world: World, outcome: str) -> None:
    world.bring("running")
    assert world.call("report", outcome=outcome) == "ok"
    assert world.call("reported", outcome=outcome, failed=True)
    assert known(world)["reason"] == ("ERROR" if outcome == "SUCCEEDED" else outcome)
