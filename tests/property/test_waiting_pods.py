"""Rules of a pod that waits for a job: which one it is given, and when it must leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from tests.property.going_on import POD, Instance

pytestmark = pytest.mark.integration
APPLICATION = "application:shop@shop:1"


class Pods(Instance):
    """``waits`` for a job, with others of its class."""

    def __init__(self, client: redis.Redis, slots: int = 1) -> None:
        super().__init__(client, POD, slots)

    def wait(self, **job: Any) -> None:
        self.start(**job)
        assert (self.answer(), self.called()) == ("waits", True)

    def kept(self) -> list[int]:
        """How much Redis keeps of pods that wait."""
        return [self.client.hlen(self.key("warm")), self.client.zcard(self.key("warm_until"))]

    def key(self, name: str) -> str:
        return class_key("t4", name)

    def put(self, instance: str, text: str) -> None:
        """Let another pod wait."""
        self.client.hset(self.key("warm"), instance, text)
        self.client.zadd(self.key("warm_until"), {instance: self.now + 60})


@pytest.fixture
def make(schedule_redis: redis.Redis) -> Callable[..., Pods]:
    def pods(**more: Any) -> Pods:
        return Pods(schedule_redis, **more)

    return pods


@pytest.fixture
def here(make: Callable[..., Pods]) -> Pods:
    return make()


# -- when it waits ---------------------------------------------------------------------------------


def test_a_pod_waits_for_a_job_and_is_given_it(here: Pods) -> None:
    here.wait()
    assert (here.answer(), here.called()) == ("waits", True), "it may ask again"
    assert here.submit("b") == [], "it is not launched"
    assert (here.answer(), here.called()) == ("waits", "b")
    record = here.record("b")
    assert (record["state"], record["instance"]) == ("launching", POD.instance)
    assert (record["warm_of"], record["warm_after"], record["warm_turn"]) == ("a#1", "a#1", 2)
    assert here.kept() == [0, 0]
    assert here.client.zcard(here.key("launching")) == 0, "its launch is not repeated"
    assert here.called(leaves=True) == "b", "it comes with the last look"


def test_a_pod_may_wait_after_each_of_its_jobs(here: Pods) -> None:
    old = here.start()
    for name in ("b", "c"):
        here.submit(name)
        assert here.ask() == name
        here.end()
    assert (here.answer(), here.called()) == ("waits", True)
    assert here.answer(old) == "none", "an old question is no wait"


def test_a_pod_that_leaves_gets_no_job(here: Pods) -> None:
    here.wait()
    assert here.called(leaves=True) is False
    assert here.kept() == [0, 0]
    assert [record["delivery"] for record in here.submit("b")] == ["b"]
    assert here.called() is False


def test_a_pod_in_which_a_place_has_failed_does_not_wait(here: Pods) -> None:
    here.start(image="shop:1")
    here.fail(APPLICATION, until=here.now - 1, pause=2)
    assert (here.answer(), here.called()) == ("none", False)


def test_a_pod_does_not_wait_when_its_class_has_no_share_for_it(make: Callable[..., Pods]) -> None:
    here = make(slots=2)
    here.submit("other")
    here.start()
    here.gpu_class = GpuClass("t4", shared_slots=1, exclusive_slots=1)
    here.announce()
    assert (here.answer(), here.called()) == ("none", False)


def test_a_pod_that_may_not_stay_does_not_wait(here: Pods) -> None:
    here.start()
    assert here.answer(stays=None) == "none"
    assert here.called() is False


# -- which job it is given -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "job",
    [{"warm": None}, {"tenant": "red"}, {"image": "shop:2"}, {"container": {"image": "cuda"}}],
    ids=["not warm", "tenant", "image", "container"],
)
def test_a_job_that_does_not_suit_a_pod_is_launched(here: Pods, job: dict[str, Any]) -> None:
    here.wait()
    assert [record["delivery"] for record in here.submit("b", **job)] == ["b"]
    assert "warm_of" not in here.record("b")
    assert here.called() is False, "its share is needed"


def test_a_probe_is_launched(here: Pods) -> None:
    here.wait(image="shop:1")
    here.fail(APPLICATION, until=here.now - 1, pause=2)
    [granted] = here.submit("b", image="shop:1")
    assert granted["probes"] == [APPLICATION]
    assert here.record("b")["probes"] == [APPLICATION]


def test_a_job_is_not_given_to_a_pod_of_another_cluster(here: Pods) -> None:
    here.wait()
    other = Line(here.client, by="d2", owner="cluster-2")
    record: Any = {"delivery": "b", "id": "b", "isolation": "shared", "warm": 60.0}
    granted = other.take_in(here.gpu_class, record, "{}").granted
    assert [each["delivery"] for each in granted] == ["b"]


def test_a_pod_is_not_given_the_job_of_another_pod(here: Pods) -> None:
    here.wait()
    here.submit("b")
    assert here.called(instance="gpu/other/u") is False


def test_a_job_that_failed_in_a_pod_is_launched_again(here: Pods) -> None:
    """The end of the pod, which is named after its first attempt, could not be told apart."""
    here.start(ends=False)
    ended = End(EndReason.INFRA, "gone")
    assert here.ask(ended=ended) is None
    assert (here.record("a")["state"], here.called()) == ("delayed", False)
    here.now += 5
    here.line.tick("t4")
    assert [record["delivery"] for record in here.line.admit(here.gpu_class)] == ["a"]
    assert "warm_of" not in here.record("a")


# -- when it must leave ----------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "stays"), [(2, True), (3, True), (1, False)])
def test_a_launch_sends_a_pod_away_only_for_its_share(
    make: Callable[..., Pods], slots: int, stays: bool
) -> None:
    here = make(slots=slots)
    here.wait()
    assert here.submit("b", warm=None)
    assert here.called() is stays


@pytest.mark.parametrize(("most", "told"), [(0, 0), (1, 1), (9, 2)])
def test_as_many_pods_of_the_cluster_are_sent_away_as_needed(
    here: Pods, most: int, told: int
) -> None:
    for name, site in (("other", "cluster-2"), ("a", POD.site), ("b", POD.site)):
        pod = {"last": f"{name}#1", "site": site, "application": "shop", "name": "p"}
        here.put(f"gpu/{name}/u", json.dumps(pod))
    assert here.line.send_away(["t4"], most) == told
    assert here.kept() == [3 - told, 3 - told]
    assert "gpu/other/u" in here.reader.waiting_pods("t4")


def test_a_pod_whose_entry_is_damaged_is_sent_away(here: Pods) -> None:
    here.put("gpu/a/u", "{")
    assert here.line.send_away(["t4"], 1) == 1
    assert here.kept() == [0, 0]


# -- what its dispatcher sees ----------------------------------------------------------------------


def test_what_is_seen_of_a_pod_is_told_of_its_last_job(here: Pods) -> None:
    """The launcher names it by its first attempt."""
    here.start()
    here.submit("b")
    assert here.ask() == "b"
    seen = Observation(Attempt("t4", "a", 1), WaitReason.UNCONFIRMED, node="n9")
    assert here.line.observed([seen]) == [True]
    assert (here.record("b").get("wait"), here.record("b").get("node")) == ("UNCONFIRMED", "n9")
    assert "wait" not in here.record("a")
