"""Nodes that fail jobs: who is kept away from them, who tries them, and what that costs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import REJECTION, End
from gpuqueue.model.place import PlaceKind, Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
BAD = "node:bad"
LOST = End(EndReason.NODE_LOST, "its node is gone", avoid="bad", blames=PlaceKind.NODE)


def rejected(node: str = "bad") -> End:
    """A node that refuses a pod at admission."""
    evidence = {"node": node}
    return End(EndReason.INFRA, "OutOfnvidia.com/gpu", node, evidence, REJECTION)


class Nodes(OpenClass):
    """A class of a cluster."""

    def __init__(self, client: redis.Redis, slots: int = 1, **limits: int) -> None:
        site = Site(application="shop", images={"t4": "main"})
        super().__init__(client, site=site, owner="cluster-1", **limits)
        self.gpu_class = GpuClass("t4", shared_slots=slots)

    def submit(self, *names: str) -> list[Record]:
        granted: list[Record] = []
        for name in names:
            record: Any = {"delivery": name, "id": name, "isolation": "shared", "task": "t"}
            record |= {"gpu_class": "t4"}
            granted += self.line.take_in(self.gpu_class, record, "{}").granted
        return granted

    def turn(self, seconds: float = 0) -> list[Record]:
        """Let time pass, and return the attempts that start."""
        self.now += seconds
        self.line.tick("t4")
        return list(self.line.admit(self.gpu_class))

    def end(self, record: Record, end: End, *, claims: bool = False) -> list[Record]:
        """End an attempt; return the attempts that start in its place."""
        attempt = Attempt.of(record)
        if claims:
            ExecutorAttempt(self.client, attempt, record["token"]).claim("gpu/j/u", "w")
        return list(self.line.release(self.gpu_class, attempt, end, "gpu/j/u").granted)

    def runs(self, record: Record, node: str) -> ExecutorAttempt:
        """Let an attempt claim its job on a node."""
        executor = ExecutorAttempt(self.client, Attempt.of(record), record["token"])
        executor.claim("gpu/j/u", "w")
        self.line.observed([Observation(Attempt.of(record), node=node)])
        return executor

    def places(self) -> dict[str, Any]:
        found: Any = self.client.hgetall(class_key("t4", "places"))
        return {name: json.loads(text) for name, text in found.items()}


@pytest.fixture
def here(schedule_redis: redis.Redis) -> Nodes:
    return Nodes(schedule_redis)


def test_a_node_that_rejects_one_pod_is_kept_away_from_all_jobs(here: Nodes) -> None:
    [first] = here.submit("a", "b")
    [second] = here.end(first, rejected())
    assert "until" in here.places()[BAD]
    assert (second["delivery"], second["away"], second.get("probes")) == ("b", ["bad"], None)
    assert second["away_until"] == here.now + 2
    told = here.record("a")
    assert (told["state"], told["wait"], told["detail"], told["spared"]) == (
        "delayed",
        "NODE_SET_ASIDE",
        "OutOfnvidia.com/gpu",
        1,
    )


def test_after_the_pause_one_attempt_tries_the_node_and_no_other(here: Nodes) -> None:
    here.gpu_class = GpuClass("t4", shared_slots=3)
    first, second, third = here.submit("a", "b", "c")
    for record in (first, second, third):
        here.end(record, rejected())
    probe, *others = here.turn(2)
    assert (probe["probes"], probe["near"], probe.get("away")) == ([BAD], "bad", None)
    assert [each["away"] for each in others] == [["bad"], ["bad"]]
    assert {each["away_until"] for each in others} == {here.now + 15}, "while it is tried"


def test_the_pause_of_a_node_grows_to_minutes(here: Nodes) -> None:
    [record] = here.submit("a")
    here.end(record, rejected())
    pauses = []
    for _ in range(10):
        pauses.append(here.places()[BAD]["pause"])
        [record] = here.turn(400)
        assert record["probes"] == [BAD]
        here.end(record, rejected())
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert here.record("a")["state"] == "delayed", "it has used up no attempt"


@pytest.mark.parametrize(("runs", "free"), [(59, False), (60, True)])
def test_a_probe_that_runs_on_the_node_brings_it_back(here: Nodes, runs: float, free: bool) -> None:
    here.gpu_class = GpuClass("t4", shared_slots=2)
    for record in here.submit("a", "b"):
        here.end(record, rejected())
    probe, other = here.turn(2)
    here.end(other, End(EndReason.ERROR, "its own"), claims=True)
    here.runs(probe, "bad")
    here.now += runs
    [next_] = here.submit("c")
    assert next_.get("away") == (None if free else ["bad"])


def test_a_success_of_the_probe_brings_the_node_back(here: Nodes) -> None:
    [record] = here.submit("a", "b")
    here.end(record, rejected())
    assert here.holders() == ["b#1"]
    here.end(here.record("b"), End(EndReason.ERROR, "its own"), claims=True)
    [probe] = here.turn(2)
    executor = here.runs(probe, "bad")
    executor.report("SUCCEEDED")
    assert executor.reported(1e6)
    here.end(probe, rejected())
    assert BAD not in here.places()


def test_a_probe_that_was_scheduled_elsewhere_proves_nothing(here: Nodes) -> None:
    here.gpu_class = GpuClass("t4", shared_slots=2)
    for record in here.submit("a", "b"):
        here.end(record, rejected())
    probe, other = here.turn(2)
    here.end(other, End(EndReason.ERROR, "its own"), claims=True)
    here.runs(probe, "good")
    here.now += 61
    [again] = here.submit("c")
    assert (again["probes"], again["near"]) == ([BAD], "bad")


def test_two_nodes_are_tried_by_two_attempts(here: Nodes) -> None:
    here.gpu_class = GpuClass("t4", shared_slots=2)
    one, two = here.submit("a", "b")
    here.end(one, rejected("bad"))
    here.end(two, rejected("worse"))
    one, two = here.turn(2)
    assert (one["near"], one["away"]) == ("bad", ["worse"])
    assert (two["near"], two["away"]) == ("worse", ["bad"])


@pytest.mark.parametrize("admitted", [-1, 1])
def test_only_a_job_that_came_after_the_failure_proves_a_node(here: Nodes, admitted: float) -> None:
    here.gpu_class = GpuClass("t4", shared_slots=2)
    early, record = here.submit("early", "a")
    executor = here.runs(early, "bad")
    here.now += 5
    here.end(record, rejected())
    known = here.places()[BAD] | {"until": here.now - 1}
    known["last"] = early["admitted"] - admitted
    here.client.hset(class_key("t4", "places"), BAD, json.dumps(known))
    executor.report("SUCCEEDED")
    assert executor.reported(1e6)
    here.end(early, rejected())
    assert (BAD in here.places()) is (admitted < 0)


# -- an attempt that finds no room elsewhere -------------------------------------------------------


def withdrawn(here: Nodes, record: Record) -> list[Record]:
    """Its pod found no room, and was deleted for that."""
    attempt = Attempt.of(record)
    assert here.line.give_up(attempt, End(EndReason.UNSCHEDULABLE, "0/25 nodes are available"))
    return here.end(record, End(EndReason.POD_DELETED, "its pod was deleted"))


def test_a_job_without_room_elsewhere_keeps_its_place_and_its_attempts(here: Nodes) -> None:
    [record] = here.submit("a", "b", "c")
    [waits] = here.end(record, rejected())
    for number in range(2, 6):
        here.now += 1
        [again] = withdrawn(here, waits)
        assert (again["delivery"], again["attempt"]) == ("b", number), "it is first in line"
        waits = again
    assert here.record("b")["spared"] == 4
    counts = here.client.hgetall(class_key("t4", "counts"))
    assert not any("UNSCHEDULABLE" in name for name in counts)


def test_without_nodes_set_aside_a_job_without_room_ends(here: Nodes) -> None:
    [record] = here.submit("a")
    withdrawn(here, record)
    assert (here.record("a")["state"], here.record("a")["reason"]) == ("finishing", "UNSCHEDULABLE")


def test_a_cancelled_job_that_was_kept_away_is_cancelled(here: Nodes) -> None:
    [record] = here.submit("a", "b")
    [waits] = here.end(record, rejected())
    assert waits["delivery"] == "b"
    here.line.cancel("t4", "b")
    withdrawn(here, waits)
    assert here.record("b")["reason"] == "CANCELLED"


def test_no_job_fails_beside_a_node_that_rejects_every_pod(here: Nodes) -> None:
    """96 jobs, 24 busy GPUs, and one node that rejects."""
    names = [f"j{number:02}" for number in range(96)]
    started = here.submit(*names)
    launches = 0
    for _ in range(300):
        for record in started:
            launches += 1
            if "bad" in record.get("away", ()):
                started = withdrawn(here, record) if record["away_until"] <= here.now else [record]
            else:
                started = here.end(record, rejected())
        started = started or here.turn()
        here.now += 1
        here.line.tick("t4")
    states = [here.record(name)["state"] for name in names]
    assert set(states) <= {"waiting", "delayed", "launching"}
    assert here.places()[BAD]["pause"] >= 64


def test_a_job_without_its_message_is_not_recalled(here: Nodes) -> None:
    """It was adopted after Redis had lost its data: it can run nowhere else."""
    [record] = here.submit("a", "b")
    [waits] = here.end(record, rejected())
    here.client.hdel(class_key("t4", "messages"), "b")
    withdrawn(here, waits)
    assert (here.record("b")["state"], here.record("b")["reason"]) == ("finishing", "UNSCHEDULABLE")


# -- other places ----------------------------------------------------------------------------------


def aside(here: Nodes, place: str, until: float) -> None:
    known = {"failures": 2, "jobs": {}, "last": here.now, "until": until, "pause": 4}
    here.client.hset(class_key("t4", "places"), place, json.dumps(known))


def test_pods_keep_away_from_nodes_alone(here: Nodes) -> None:
    aside(here, "application:shop@other", here.now + 4)
    [record] = here.submit("a")
    assert (record.get("away"), record.get("near")) == (None, None)


def test_a_job_of_a_machine_keeps_away_from_no_node(here: Nodes) -> None:
    aside(here, BAD, here.now + 4)
    here.line.site = Site("box", "shop")
    [record] = here.submit("a")
    assert (record.get("away"), record.get("near")) == (None, None)


def test_the_probe_of_an_application_tries_it_on_any_node(here: Nodes) -> None:
    here.gpu_class = GpuClass("t4", shared_slots=2)
    aside(here, "application:shop@main", here.now)
    [probe] = here.submit("a")
    assert probe["probes"] == ["application:shop@main"]
    here.line.observed([Observation(Attempt.of(probe), node="n1")])
    assert here.submit("b") == [], "it is still tried"


# -- disruptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["EVICTED", "PREEMPTED", "NODE_LOST"])
def test_disruptions_count_apart_from_attempts(schedule_redis: redis.Redis, reason: str) -> None:
    here = Nodes(schedule_redis, max_attempts=2, max_disruptions=3)
    [record] = here.submit("a")
    for number in range(1, 4):
        here.end(record, End(EndReason(reason), "taken away"), claims=True)
        known = here.record("a")
        assert (known["state"], known["disruptions"]) == ("delayed", number)
        assert known["eta"] - here.now == 2 ** (number - 1)
        [record] = here.turn(60)
    here.end(record, End(EndReason.INFRA, "its executor"), claims=True)
    assert here.record("a")["state"] == "delayed", "the first attempt that counts"
    [record] = here.turn(60)
    here.end(record, End(EndReason(reason), "taken away"), claims=True)
    assert (here.record("a")["state"], here.record("a")["reason"]) == ("finishing", reason)


def test_a_lost_node_is_noted_without_a_second_count(schedule_redis: redis.Redis) -> None:
    here = Nodes(schedule_redis, slots=2, max_attempts=1)
    for record in here.submit("a", "b"):
        here.end(record, LOST, claims=True)
    assert "until" in here.places()[BAD]
    assert [here.record(name)["spared"] for name in "ab"] == [1, 1]


def test_what_a_lost_node_kept_waiting_is_lost_with_it(here: Nodes) -> None:
    """It was given up since its image did not come, and its node is gone by now."""
    [record] = here.submit("a")
    assert here.line.give_up(Attempt.of(record), End(EndReason.IMAGE, "not pulled in time"))
    here.end(record, LOST)
    known = here.record("a")
    assert (known["state"], known["disruptions"], known["error"]) == ("delayed", 1, LOST.error)


def test_pauses_of_attempts_that_never_started_grow_to_minutes(
    schedule_redis: redis.Redis,
) -> None:
    pauses: dict[bool, list[float]] = {}
    for claims in (False, True):
        here = Nodes(schedule_redis, max_attempts=12)
        [record] = here.submit("a")
        pauses[claims] = []
        for _ in range(10):
            here.end(record, End(EndReason.INFRA, "gone"), claims=claims)
            pauses[claims].append(here.record("a")["eta"] - here.now)
            [record] = here.turn(400)
    assert pauses[False] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert pauses[True][-4:] == [60, 60, 60, 60]


# -- beside holds ----------------------------------------------------------------------------------

NO_ROOM = End(EndReason.UNSCHEDULABLE, "0/25 nodes", blames=PlaceKind.SCHEDULING)
REFUSED = End(EndReason.INFRA, "forbidden", blames=PlaceKind.LAUNCH)


def test_a_pod_that_no_node_takes_holds_the_class_also_while_one_is_tried(here: Nodes) -> None:
    [record] = here.submit("a")
    here.end(record, rejected())
    [probe] = here.turn(3)
    assert (probe["near"], probe.get("away")) == ("bad", None), "no node is out of its reach"
    assert here.line.give_up(Attempt.of(probe), NO_ROOM)
    assert here.end(probe, End(EndReason.POD_DELETED, "its pod was deleted")) == []
    assert "until" in here.places()["scheduling:t4"]
    [again] = here.turn(3)
    assert set(again["probes"]) == {BAD, "scheduling:t4"}
    assert here.record("a")["attempt"] - here.record("a")["spared"] == 1, "none is used up"


def test_refusals_do_not_count_for_the_pause_of_the_next_failure(here: Nodes) -> None:
    [record] = here.submit("a")
    for _ in range(4):
        here.end(record, REFUSED)
        [record] = here.turn(100)
    here.end(record, End(EndReason.INFRA, "gone"), claims=True)
    known = here.record("a")
    assert (known["state"], known["eta"] - here.now) == ("delayed", 1)
