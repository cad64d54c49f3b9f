"""What holds no class, and whom a hold leaves alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.place import PlaceKind, Site
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.store import places
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from tests.property.faulty_machine import Machine, names
from tests.property.test_holds import pods

pytestmark = pytest.mark.integration


def test_a_quota_that_refuses_a_job_again_holds_the_class_at_once(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "quota")
    here.submit("a")
    here.end_all()
    places.clear(here.client, "t4", "quota:t4")
    here.started += here.line.admit(here.gpu_class)
    here.end_all()
    assert here.set_aside() == {"quota:t4"}


def test_many_jobs_that_are_refused_at_once_keep_their_places(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "launch", slots=12)
    here.submit(*names(12))
    here.end_all()
    assert {here.record(name)["state"] for name in names(12)} == {"waiting"}


def test_a_refusal_under_a_lower_limit_of_attempts_ends_the_job(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "launch" if record["attempt"] > 1 else "error")
    here.submit("a")
    attempt = Attempt.of(here.started.pop())
    here.line.release(here.gpu_class, attempt, End(EndReason.INFRA, "gone"))
    here.now += 2
    here.line.tick("t4")
    here.started += here.line.admit(here.gpu_class)
    here.line.max_attempts = 1
    here.end_all()
    assert (here.record("a")["state"], here.record("a")["reason"]) == ("finishing", "INFRA")


def test_an_attempt_that_a_lost_node_ends_waits_for_no_hold(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "success")
    here.submit("a")
    attempt = Attempt.of(here.started[0])
    end = End(EndReason.UNSCHEDULABLE, "no node", blames=PlaceKind.SCHEDULING)
    assert here.line.give_up(attempt, end)
    here.line.release(here.gpu_class, attempt, End(EndReason.NODE_LOST, "its node is lost"))
    assert here.record("a")["error"] == "its node is lost"
    assert here.set_aside() == set()


def test_a_cancelled_attempt_that_is_refused_waits_for_no_hold(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "launch")
    here.submit("a")
    here.line.cancel("t4", "a", terminate=True)
    here.end_all()
    assert (here.record("a")["state"], here.record("a")["reason"]) == ("finishing", "CANCELLED")
    assert here.set_aside() == set()


def test_a_refusal_of_what_runs_or_has_lost_its_slot_holds_no_class(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "launch")
    here.submit("runs", "lost")
    runs, lost = here.started
    executor = ExecutorAttempt(here.client, Attempt.of(runs), runs["token"])
    executor.claim("h:1", "w")
    here.client.zrem(class_key("t4", "holders_shared"), Attempt.of(lost).holder)
    for attempt, instance in ((Attempt.of(runs), "h:1"), (Attempt.of(lost), "")):
        end = End(EndReason.INFRA, "refused", blames=PlaceKind.LAUNCH)
        here.line.release(here.gpu_class, attempt, end, instance)
    assert "launch:t4" not in here.set_aside()


def test_an_end_that_frees_no_share_of_a_quota_lets_none_try_it(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "launch")
    here.submit("a")
    held = {"failures": 1, "jobs": {}, "last": here.now, "until": here.now + 100, "pause": 100}
    here.client.hset(class_key("t4", "places"), "quota:t4", json.dumps(held))
    here.end_all()
    unknown = Attempt("t4", "unknown", 1)
    here.line.release(here.gpu_class, unknown, End(EndReason.ERROR, "gone"))
    assert here.places()["quota:t4"]["until"] == here.now + 100


LIMITED = Site(application="shop", images={"t4": "main"}, held={"t4": 10.0})


def test_a_decision_says_that_more_jobs_have_waited_too_long_for_a_hold(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "launch", site=LIMITED)
    here.submit(*names(70))
    here.end_all()
    here.now += 11
    while here.line.admit(here.gpu_class).more:
        pass
    states = Counter(here.record(name)["state"] for name in names(70))
    assert states == {"launching": 1, "finishing": 69}, "one tries the hold"


def test_a_class_that_is_closed_ends_no_job_of_its_hold(machine: Callable[..., Machine]) -> None:
    here = pods(machine, lambda record: "launch", site=LIMITED)
    here.submit("a")
    here.end_all()
    here.now += 11
    held = here.places()["launch:t4"] | {"until": here.now + 60}
    here.client.hset(class_key("t4", "places"), "launch:t4", json.dumps(held))
    here.client.hdel(class_key("t4", "gate"), "opened")
    assert here.line.admit(here.gpu_class) == []
    assert here.record("a")["state"] == "waiting"


@pytest.mark.parametrize(
    ("kind", "site"), [("launch", Site("h", "shop")), ("image", Site(application="shop"))]
)
def test_a_refusal_on_a_host_or_of_no_image_holds_no_job(
    machine: Callable[..., Machine], kind: str, site: Site
) -> None:
    here = machine(lambda record: kind, site=site, devices=0)
    here.submit("a")
    here.end_all()
    assert here.record("a")["state"] == "delayed"
    assert here.set_aside() == set()


# -- whom a step lets try a hold -------------------------------------------------------------------


def hold(here: Machine, name: str, **more: Any) -> None:
    entry = {"failures": 1, "jobs": {}, "last": here.now, "until": here.now + 100, "pause": 100}
    entry = {field: value for field, value in (entry | more).items() if value is not None}
    here.client.hset(class_key("t4", "places"), name, json.dumps(entry))


def test_an_attempt_lets_one_try_the_hold_of_that_step_alone(
    machine: Callable[..., Machine],
) -> None:
    """A pod that was created says that there is quota; one with a node, that there is room."""
    here = pods(machine, lambda record: "success")
    here.submit("a")
    attempt = Attempt.of(here.started[0])
    here.line.observed([Observation(attempt, pod="p")])
    hold(here, "quota:t4")
    hold(here, "scheduling:t4")
    here.line.observed([Observation(attempt, pod="p", node="n")])
    assert here.places()["quota:t4"]["until"] == here.now + 100
    assert here.places()["scheduling:t4"]["until"] == here.now
    hold(here, "scheduling:t4")
    ExecutorAttempt(here.client, attempt, here.started[0]["token"]).claim("ns/j/u", "w")
    assert {each["until"] for each in here.places().values()} == {here.now + 100}


def test_a_pod_that_is_reported_again_lets_none_try_a_hold(machine: Callable[..., Machine]) -> None:
    here = pods(machine, lambda record: "success")
    here.submit("a")
    attempt = Attempt.of(here.started[0])
    hold(here, "quota:t4")
    here.line.observed([Observation(attempt, wait=WaitReason.UNCONFIRMED)])
    assert here.places()["quota:t4"]["until"] == here.now + 100, "it has no pod yet"
    told = Observation(attempt, pod="p", node="n")
    here.line.observed([told])
    hold(here, "scheduling:t4")
    here.line.observed([told])
    assert {each["until"] for each in here.places().values()} == {here.now + 100}


def test_a_job_on_a_host_tries_no_hold(machine: Callable[..., Machine]) -> None:
    """A cluster that serves the class, too, has met it."""
    here = machine(lambda record: "success", site=Site("h", "shop"), devices=0)
    hold(here, "launch:t4", until=here.now)
    before = here.places()
    here.submit("a")
    assert "probes" not in here.started[0] and here.places() == before


@pytest.mark.parametrize("until", [None, -5])
def test_an_end_changes_no_hold_that_keeps_none_from_its_start(
    machine: Callable[..., Machine], until: float | None
) -> None:
    here = pods(machine, lambda record: "error")
    here.submit("a")
    hold(here, "quota:t4", until=until and here.now + until)
    before = here.places()
    here.end_all()
    assert here.record("a")["state"] == "ended"
    assert here.places() == before


def test_a_pod_that_has_a_node_does_not_disprove_that_its_start_is_refused(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "pods")
    here.submit("a")
    here.end_all()
    places.clear(here.client, "t4", "pods:t4")
    [again] = here.line.admit(here.gpu_class)
    here.line.observed([Observation(Attempt.of(again), pod="p", node="n")])
    here.end(again)
    assert here.set_aside() == set(), "the job may be at fault itself"


def test_a_hold_stays_that_another_job_tries_by_now(machine: Callable[..., Machine]) -> None:
    here = pods(machine, lambda record: "launch")
    here.submit("a", "b")
    here.end_all()
    here.now += 2
    [probe] = here.line.admit(here.gpu_class)
    hold(here, "launch:t4", probe="b#2", delivery="b")
    here.line.observed([Observation(Attempt.of(probe), pod="p")])
    assert here.set_aside() == {"launch:t4"}
