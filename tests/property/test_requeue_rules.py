"""A message that goes back: its task has rejected it, or the process of its task is lost."""

from __future__ import annotations

from typing import Any

import pytest

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.keys import class_key
from tests.property.one_job import T4, World

pytestmark = pytest.mark.integration


def known(world: World) -> Record:
    record = world.record()
    assert record is not None
    return record


def begin(world: World) -> int:
    """Let an executor have the job; return the number of the attempt."""
    if not world.record():
        world.bring("launching")
    record = known(world)
    world.token, number = record["token"], record["attempt"]
    if record["state"] == "launching":
        assert world.call("claim", attempt=number)[0] == "ok"
    return int(number)


def run(world: World) -> int:
    """Let the job run until its task rejects the message; return the number of the attempt."""
    number = begin(world)
    assert world.call("report", attempt=number, outcome="REQUEUED", error="later") == "ok"
    return number


def ends(world: World, number: int, reason: EndReason = EndReason.ERROR) -> Any:
    return world.line.release(T4, Attempt("t4", "a", number), End(reason, "gone"), "h:n:1")


def goes_on(world: World) -> None:
    """Let its pause pass, and give it a slot."""
    world.now = known(world)["eta"]
    world.line.tick("t4")
    [granted] = world.line.admit(T4)
    assert granted["delivery"] == "a"


@pytest.mark.parametrize("confirmed", [True, False])
@pytest.mark.parametrize("end", [EndReason.ERROR, EndReason.INFRA])
def test_a_rejected_job_goes_back_into_line(world: World, confirmed: bool, end: EndReason) -> None:
    number = run(world)
    if confirmed:
        assert not world.call("reported", outcome="REQUEUED"), "it has not ended"
        assert world.record() == known(world) | {"state": "reporting"}
    released = ends(world, number, end)
    assert (released.freed, released.state, released.error) == (True, "delayed", "later")
    record = known(world)
    assert (record["eta"], record["wait"], record["error"]) == (world.now + 1, "REQUEUED", "later")
    assert not {"outcome", "token", "instance"} & set(record)
    why = world.reader.why(T4, "a")
    assert why and why.reason == "REQUEUED"


def test_the_process_of_a_rejected_job_has_a_deadline(world: World) -> None:
    run(world)
    world.call("reported", outcome="REQUEUED", within=7)
    assert world.client.zscore(class_key("t4", "deadlines"), "a#1") == world.now + 7


def test_a_rejection_that_redis_has_lost_is_reported_again(world: World) -> None:
    world.bring("running")
    claimed = {"instance": "h:n:1", "worker": "w", "started": world.now}
    assert not world.call("reported", outcome="REQUEUED", claimed=claimed)
    assert known(world)["state"] == "reporting"
    assert ends(world, 1).state == "delayed"


def test_a_loop_of_rejections_slows_down_and_costs_no_attempt(world: World) -> None:
    pauses = []
    for _ in range(9):
        number = run(world)
        assert ends(world, number).state == "delayed"
        pauses.append(known(world)["eta"] - world.now)
        goes_on(world)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    record = known(world)
    assert (record["attempt"], record["requeues"], record["spared"]) == (10, 9, 9)
    # Two attempts are allowed, and both are left.
    assert ends(world, 10, EndReason.INFRA).state == "delayed"
    goes_on(world)
    assert ends(world, 11, EndReason.INFRA).state == "finishing"


def test_a_rejected_job_keeps_its_place_in_line(world: World) -> None:
    number = run(world)
    for name in ("b", "c", "d"):
        record: Any = {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}
        world.line.take_in(T4, record, "{}")
    assert [each["delivery"] for each in ends(world, number).granted] == ["c"]
    world.now = known(world)["eta"]
    world.line.tick("t4")
    why = world.reader.why(T4, "d")
    assert why and why.ahead == ["a"]


@pytest.mark.parametrize("limit", [None, 100.0])
def test_a_rejected_job_still_expires(world: World, limit: float | None) -> None:
    record: Any = {"delivery": "a", "id": "a", "isolation": "shared", "gpu_class": "t4"}
    expires = {"expires": world.now + limit} if limit else {}
    world.line.take_in(T4, record | expires, "{}")
    ends(world, run(world))
    assert world.client.zscore(class_key("t4", "expiring"), "a") == (limit and world.now + limit)


@pytest.mark.parametrize("when", ["while it runs", "while it ends"])
def test_a_rejected_job_that_was_revoked_is_revoked(world: World, when: str) -> None:
    """As on a worker of Celery, which looks at a message that comes back."""
    world.bring("running")
    if when == "while it runs":
        assert world.line.cancel("t4", "a", terminate=False) == "running"
    number = run(world)
    if when == "while it ends":
        assert world.line.cancel("t4", "a") == "finishing"
    assert ends(world, number).state == "finishing"
    assert (known(world)["reason"], known(world).get("outcome")) == ("CANCELLED", None)


def test_another_job_that_was_revoked_changes_nothing(world: World) -> None:
    number = run(world)
    assert world.line.cancel("t4", "b") == "unknown"
    assert ends(world, number).state == "delayed"


def test_a_rejected_job_whose_message_is_lost_fails(world: World) -> None:
    number = run(world)
    world.client.delete(class_key("t4", "messages"))
    assert ends(world, number).state == "finishing"
    assert world.call("finish_claim")[0] == "ok", "its caller waits for a result"


def test_a_job_with_an_older_rejection_ends_as_its_last_attempt(world: World) -> None:
    ends(world, run(world))
    goes_on(world)
    world.token = known(world)["token"]
    assert world.call("claim", attempt=2)[0] == "ok"
    assert world.call("report", attempt=2, outcome="IGNORED") == "ok"
    assert ends(world, 2).state == "finishing"
    assert world.call("finish_claim") == ["superseded"]
    assert known(world)["reason"] == "IGNORED"


# -- a process that is lost ------------------------------------------------------------------------


def lose(world: World, reason: EndReason = EndReason.ERROR, if_lost: str | None = "requeue") -> Any:
    """Let the task of the job run, and its process be lost."""
    number = begin(world)
    assert world.call("loaded", attempt=number, seconds=None, if_lost=if_lost)
    return ends(world, number, reason)


@pytest.mark.parametrize("reason", [EndReason.ERROR, EndReason.HOST_OOM, EndReason.POD_DELETED])
def test_a_job_whose_process_is_lost_goes_back_into_line(world: World, reason: EndReason) -> None:
    assert lose(world, reason).state == "delayed"
    record = known(world)
    assert (record["losses"], record["spared"], record["eta"]) == (1, 1, world.now + 1)
    assert (record["wait"], record["error"]) == ("REQUEUED", "gone")
    assert "if_lost" not in record, "the next attempt says it again"


@pytest.mark.parametrize("if_lost", [None, "retry"])
def test_a_job_ends_if_its_application_does_not_want_it_back(
    world: World, if_lost: str | None
) -> None:
    assert lose(world, if_lost=if_lost).state == "finishing"
    assert known(world)["reason"] == "ERROR"
    assert known(world).get("if_lost") == if_lost, "its finisher retries it"


@pytest.mark.parametrize("reason", [EndReason.TIME_LIMIT, EndReason.IMAGE])
def test_a_job_that_ended_otherwise_does_not_go_back(world: World, reason: EndReason) -> None:
    assert lose(world, reason).state == "finishing"
    assert known(world)["reason"] == reason


def test_a_job_goes_back_as_often_as_it_gets_attempts(world: World) -> None:
    lose(world)
    goes_on(world)
    assert lose(world).state == "finishing"
    assert (known(world)["attempt"], known(world)["losses"]) == (2, 1)


def test_a_lost_process_costs_no_attempt_for_other_reasons(world: World) -> None:
    lose(world)
    goes_on(world)
    assert ends(world, 2, EndReason.INFRA).state == "delayed"
    goes_on(world)
    assert lose(world).state == "finishing", "that it may be lost twice counts by itself"


def test_a_job_is_lost_with_a_growing_pause(world: World) -> None:
    world.line.max_attempts = 9
    pauses = []
    for _ in range(4):
        lose(world)
        pauses.append(known(world)["eta"] - world.now)
        goes_on(world)
    assert pauses == [1, 2, 4, 8]


def test_an_attempt_that_reported_is_not_lost(world: World) -> None:
    world.bring("running")
    assert world.call("loaded", if_lost="requeue")
    assert world.call("report", outcome="ERROR") == "ok"
    assert ends(world, 1).state == "finishing"


def test_an_attempt_that_never_began_is_not_lost(world: World) -> None:
    world.bring("launching")
    ends(world, 1)
    assert (known(world)["state"], known(world).get("losses")) == ("delayed", None)


@pytest.mark.parametrize("what", ["cancelled", "out of time"])
def test_a_process_that_was_stopped_is_not_lost(world: World, what: str) -> None:
    world.bring("running")
    assert world.call("loaded", seconds=5, if_lost="requeue")
    if what == "cancelled":
        world.line.cancel("t4", "a")
    else:
        world.now += 6
        world.line.tick("t4")
    assert ends(world, 1).state == "finishing"


def test_a_lost_job_that_was_revoked_is_revoked(world: World) -> None:
    world.bring("running")
    assert world.line.cancel("t4", "a", terminate=False) == "running"
    assert lose(world).state == "finishing"
    assert known(world)["reason"] == "CANCELLED"


def test_a_lost_job_whose_message_is_lost_too_fails(world: World) -> None:
    world.bring("running")
    world.client.delete(class_key("t4", "messages"))
    assert lose(world).state == "finishing"


def test_a_lost_job_that_had_sent_its_retry_is_superseded(world: World) -> None:
    world.bring("running")
    record: Any = {"delivery": "a~1", "id": "a", "isolation": "shared", "gpu_class": "t4"}
    world.line.take_in(T4, record | {"retries": 1}, "{}")
    assert lose(world).state == "finishing"
    assert world.call("finish_claim") == ["superseded"]


@pytest.mark.parametrize("how", ["lost", "rejected"])
def test_a_job_that_goes_back_keeps_away_from_the_node_at_fault(world: World, how: str) -> None:
    if how == "lost":
        world.bring("running")
        assert world.call("loaded", if_lost="requeue")
    else:
        run(world)
    end = End(EndReason.HOST_OOM, "gone", avoid="n1")
    assert world.line.release(T4, Attempt("t4", "a", 1), end, "h:n:1").state == "delayed"
    assert known(world)["avoid"] == ["n1"]


def test_what_a_loss_means_is_known_again_after_a_loss_of_redis(world: World) -> None:
    """A leader has adopted the attempt; the next word of its process tells it."""
    world.bring("running")
    found: Any = {**known(world)}
    world.client.hdel(class_key("t4", "jobs"), "a")
    world.line.adopt("t4", found)
    claimed = {"instance": "h:n:1", "worker": "w", "started": world.now, "loaded": True}
    assert world.call("sampled", claimed=claimed | {"if_lost": "requeue"})
    assert ends(world, 1).state == "delayed"


def test_an_end_that_an_older_version_observed_is_no_loss(world: World) -> None:
    world.bring("running")
    assert world.call("loaded", if_lost="requeue")
    ended = {"reason": "ERROR", "error": "gone", "avoid": "", "blames": "", "tried": "unstarted"}
    context = {"ended": ended | {"evidence": {}}, "max_attempts": 2, **world.line.admission(T4)}
    assert world.call("release", **context)[1] == "finishing"
