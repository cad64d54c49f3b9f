"""What a cluster refuses to every job of a class holds the class: rules of the scripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.place import HOLDS, PlaceKind, Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store import places
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from tests.property.faulty_machine import Machine, names

pytestmark = pytest.mark.integration

PODS = Site(application="shop", images={"t4": "main"})
OF_CLASS = [kind for kind in HOLDS if kind is not PlaceKind.IMAGE]


def pods(machine: Callable[..., Machine], how: Callable[[Record], str], **more: Any) -> Machine:
    return machine(how, **{"site": PODS, "devices": 0} | more)


def counted(here: Machine, name: str) -> int:
    record = here.record(name)
    return record.get("attempt", 0) - record.get("spared", 0)


@pytest.mark.parametrize("kind", OF_CLASS)
def test_the_first_refusal_holds_the_class_and_costs_nothing(
    machine: Callable[..., Machine], kind: PlaceKind
) -> None:
    here = pods(machine, lambda record: kind)
    here.submit(*names(12))
    here.end_all()
    assert here.set_aside() == {f"{kind}:t4"}
    assert here.places()[f"{kind}:t4"]["error"] == f"refused: {kind}"
    for name in names(12):
        assert (here.record(name)["state"], counted(here, name)) == ("waiting", 0)
        assert here.why(name) == HOLDS[kind].wait
    here.now += 2
    [probe] = here.line.admit(here.gpu_class)
    assert (probe["delivery"], probe["probes"]) == ("j00", [f"{kind}:t4"])
    assert here.why("j01") == HOLDS[kind].wait, "while one tries it"


@pytest.mark.parametrize("kind", OF_CLASS)
def test_a_class_that_goes_on_keeps_its_order_and_all_attempts(
    machine: Callable[..., Machine], kind: PlaceKind
) -> None:
    def how(record: Record) -> str:
        return kind if here.now < 1_000_010 else "success"

    here = pods(machine, how)
    here.submit(*names(30))
    here.play(60)
    assert here.succeeded == names(30)
    assert {counted(here, name) for name in names(30)} == {1}
    assert here.set_aside() == set()


@pytest.mark.parametrize(
    ("kind", "ends_it"),
    [
        (PlaceKind.LAUNCH, "pod"),
        (PlaceKind.QUOTA, "pod"),
        (PlaceKind.SCHEDULING, "node"),
        (PlaceKind.PODS, "claim"),
    ],
)
def test_a_probe_that_gets_further_ends_the_hold(
    machine: Callable[..., Machine], kind: PlaceKind, ends_it: str
) -> None:
    here = pods(machine, lambda record: kind)
    here.submit(*names(3))
    here.end_all()
    here.now += 2
    [probe] = here.line.admit(here.gpu_class)
    attempt = Attempt.of(probe)
    steps = ["pod", "node", "claim"]
    for step in steps:
        if step == "claim":
            ExecutorAttempt(here.client, attempt, probe["token"]).claim("ns/j/u", "w")
        else:
            node = "n" if step == "node" else ""
            here.line.observed([Observation(attempt, pod="p", node=node)])
        ended = steps.index(step) >= steps.index(ends_it)
        assert here.set_aside() == (set() if ended else {f"{kind}:t4"})
        assert bool(here.line.admit(here.gpu_class)) == (step == ends_it)


@pytest.mark.parametrize("kind", [PlaceKind.QUOTA, PlaceKind.SCHEDULING])
@pytest.mark.parametrize("how", ["success", "error"])
def test_the_end_of_an_attempt_makes_the_probe_due(
    machine: Callable[..., Machine], kind: PlaceKind, how: str
) -> None:
    def ends(record: Record) -> str:
        return how if record["delivery"] == "runs" else kind

    here = pods(machine, ends)
    here.submit("runs")
    running, here.started = here.started, []
    here.submit(*names(3))
    here.end_all()
    assert here.line.admit(here.gpu_class) == []
    here.end(running[0])
    assert [record["delivery"] for record in here.started] == ["j00"]


def test_a_slot_given_back_makes_no_probe_due(machine: Callable[..., Machine]) -> None:
    here = pods(machine, lambda record: "quota")
    here.submit(*names(4))
    first, here.started = here.started, []
    for record in first:
        here.end(record)
    assert here.started == []


@pytest.mark.parametrize("kind", [PlaceKind.LAUNCH, PlaceKind.PODS])
def test_one_job_that_alone_is_refused_holds_the_others_for_a_while(
    machine: Callable[..., Machine], kind: PlaceKind
) -> None:
    here = pods(machine, lambda record: kind if record["delivery"] == "bad" else "success")
    here.submit("bad", *names(6))
    here.play(300)
    assert here.succeeded == names(6)
    assert here.ended["bad"] == HOLDS[kind].end
    assert counted(here, "bad") == 3
    assert here.set_aside() == set()


def test_two_jobs_that_are_refused_again_hold_the_class_again(
    machine: Callable[..., Machine],
) -> None:
    refuses = True

    def how(record: Record) -> str:
        return "launch" if refuses else "success"

    here = pods(machine, how)
    here.submit("a", "b")
    here.end_all()
    places.clear(here.client, "t4", "launch:t4")
    here.started += here.line.admit(here.gpu_class)
    here.end_all()
    assert here.set_aside() == {"launch:t4"}, "the second one proves it"
    refuses = False
    here.play(60)
    assert sorted(here.succeeded) == ["a", "b"]
    assert [counted(here, name) for name in ("a", "b")] == [1, 1]


def test_an_image_holds_only_the_jobs_that_need_it(machine: Callable[..., Machine]) -> None:
    away = True

    def how(record: Record) -> str:
        return "image" if away and record.get("image") == "far" else "success"

    here = pods(machine, how)
    here.submit("a", "b", "c", image="far")
    here.submit(*names(4))
    here.play(3)
    assert here.succeeded == names(4)
    assert here.set_aside() == {"image:far"}
    assert {here.why(name) for name in "abc"} == {"IMAGE"}
    away = False
    here.play(60)
    assert here.succeeded[4:] == ["a", "b", "c"]
    assert [counted(here, name) for name in "abc"] == [1, 1, 1]


def test_the_image_of_a_class_holds_all_jobs_without_their_own(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "success" if record.get("image") else "image")
    here.submit("a", "b")
    here.submit("own", image="near")
    here.play(3)
    assert here.succeeded == ["own"]
    assert here.set_aside() == {"image:main"}


@pytest.mark.parametrize("kind", list(HOLDS))
@pytest.mark.parametrize("limit", [10.0, None])
def test_jobs_wait_for_a_hold_as_long_as_their_class_says(
    machine: Callable[..., Machine], kind: PlaceKind, limit: float | None
) -> None:
    site = Site(application="shop", images={"t4": "main"}, held={"t4": limit} if limit else {})
    here = pods(machine, lambda record: kind, site=site)
    here.submit(*names(6))
    here.end_all()
    here.now += 6
    here.submit("later")
    for _ in range(5):
        here.end_all()
        here.now += 1
        here.line.tick("t4")
        here.started += here.line.admit(here.gpu_class)
    here.end_all()
    states = {name: here.record(name)["state"] for name in [*names(6), "later"]}
    if limit is None:
        assert set(states.values()) <= {"waiting", "delayed", "launching"}
        return
    assert states.pop("later") in ("waiting", "delayed")
    assert set(states.values()) == {"finishing"}
    record = here.record("j03")
    assert record["reason"] == HOLDS[kind].end
    what = "image" if kind is PlaceKind.IMAGE else "class"
    assert record["error"].startswith(f"its {what} was held for 10 s: refused")


def test_a_cancelled_or_expired_job_ends_while_its_class_is_held(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "launch")
    here.submit("a", "b", expires=1_000_030.0)
    here.end_all()
    assert here.line.cancel("t4", "b") == "cancelled"
    here.now += 31
    here.line.tick("t4")
    assert [here.record(name)["reason"] for name in "ab"] == ["EXPIRED", "CANCELLED"]


def test_an_attempt_that_is_given_up_for_a_hold_waits(machine: Callable[..., Machine]) -> None:
    here = pods(machine, lambda record: "success")
    here.submit("a")
    attempt = Attempt.of(here.started[0])
    here.line.launched(attempt, "ns/j", 60)
    end = End(EndReason.UNSCHEDULABLE, "no node", blames=PlaceKind.SCHEDULING)
    assert here.line.give_up(attempt, end)
    gone = End(EndReason.POD_DELETED, "its pod was deleted")
    here.line.release(here.gpu_class, attempt, gone, "ns/j/u")
    assert (here.record("a")["state"], counted(here, "a")) == ("waiting", 0)
    assert here.places()["scheduling:t4"]["error"] == "no node"


def test_an_attempt_that_is_given_up_for_its_node_avoids_it(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "success")
    here.submit("a")
    attempt = Attempt.of(here.started[0])
    here.line.launched(attempt, "ns/j", 60)
    end = End(EndReason.INFRA, "no network", avoid="n", blames=PlaceKind.NODE)
    assert here.line.give_up(attempt, end)
    here.line.release(here.gpu_class, attempt, End(EndReason.POD_DELETED, "gone"), "ns/j/u")
    assert here.record("a")["avoid"] == ["n"]
    assert list(here.places()) == ["node:n"]


def test_a_job_whose_pod_met_a_hold_on_a_node_prefers_another(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "success")
    here.submit("a")
    attempt = Attempt.of(here.started[0])
    end = End(EndReason.INFRA, "its init container failed", avoid="n", blames=PlaceKind.PODS)
    here.line.release(here.gpu_class, attempt, end)
    assert list(here.places()) == ["pods:t4"]
    assert (here.record("a")["avoid"], counted(here, "a")) == (["n"], 0)


def test_processes_of_a_host_meet_no_hold(machine: Callable[..., Machine]) -> None:
    here = pods(machine, lambda record: "launch")
    here.submit("a")
    here.end_all()
    here.line.site = Site("h", "shop")
    held = {"failures": 1, "jobs": {}, "last": here.now, "until": here.now + 100, "pause": 100}
    here.client.hset(class_key("t4", "places"), "image:far", json.dumps(held))
    here.submit("b", image="far")
    assert [record["delivery"] for record in here.started] == ["a", "b"]


def test_a_hold_keeps_the_words_of_the_cluster_up_to_their_end(
    machine: Callable[..., Machine],
) -> None:
    here = pods(machine, lambda record: "success")
    here.submit("a", "b")
    for name, size in (("a", 1100), ("b", 2000)):
        [attempt] = [Attempt.of(each) for each in here.started if each["delivery"] == name]
        words = "x" * size + " 503"
        here.line.release(
            here.gpu_class, attempt, End(EndReason.IMAGE, words, blames=PlaceKind.IMAGE)
        )
        assert here.places()["image:main"]["error"] == words[:1200]
