"""A class by node that the dispatchers of two clusters serve on one Redis: one of them starts its
jobs, on its own nodes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.place import Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.domains import Domains
from gpuqueue.store.keys import CLASSES, class_key
from gpuqueue.store.line import Line
from gpuqueue.store.owners import Owners, ServedElsewhere
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=1, exclusive_slots=1, domain="node")
SLOTS = {"shared": 1, "exclusive": 1}
WHOLE = replace(T4, domain=None)
HOLDS = 30


class Cluster:
    """The dispatchers of one cluster."""

    def __init__(self, queue: OpenClass, owner: str, gpu_class: GpuClass = T4) -> None:
        self.queue, self.owner, self.gpu_class = queue, owner, gpu_class
        site = Site() if owner else Site(host="machine")
        self.line = Line(queue.client, owner=owner, site=site)
        self.running: dict[str, Attempt] = {}
        self.beats()

    def beats(self, holds: float = HOLDS) -> None:
        self.line.announce([self.gpu_class], holds)

    def lists(self, *nodes: str, more: int = 0) -> None:
        slots = dict.fromkeys(nodes, SLOTS) if self.gpu_class.domain else None
        self.line.set_nodes(self.gpu_class, slots, more, self.owner)

    def _start(self, granted: Any) -> list[str]:
        self.running |= {each["delivery"]: Attempt.of(each) for each in granted}
        return [f"{each['delivery']}@{each.get('domain')}" for each in granted]

    def send(self, name: str) -> list[str]:
        record: Any = {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}
        return self._start(self.line.take_in(self.gpu_class, record, "{}").granted)

    def admit(self) -> list[str]:
        return self._start(self.line.admit(self.gpu_class))

    def ends(self, name: str) -> list[str]:
        end = End(EndReason.ERROR, "gone")
        return self._start(
            self.line.release(self.gpu_class, self.running.pop(name), end, "").granted
        )


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> OpenClass:
    return OpenClass(schedule_redis)


def domains(queue: OpenClass) -> dict[str, int]:
    return {each.name: each.held["shared"] for each in Domains(queue.client).of("t4")}


def test_the_nodes_of_a_class_are_those_of_one_cluster(queue: OpenClass) -> None:
    north, south = Cluster(queue, "north"), Cluster(queue, "south")
    north.lists("a", "b")
    with pytest.raises(ServedElsewhere, match=r"those of north, .*; south starts none: give each"):
        south.lists("x")
    assert domains(queue) == {"a": 0, "b": 0}
    assert south.send("one") == [], "it takes messages"
    assert north.admit() == ["one@a"], "and the other cluster starts the jobs"


def test_both_clusters_of_a_class_by_node_are_named(queue: OpenClass) -> None:
    north, south = Cluster(queue, "north"), Cluster(queue, "south")
    for each in (north, south):
        each.beats(10**10)  # by the clock of Redis, too
    queue.client.hset(CLASSES, "t4", "{}")
    owners = Owners(queue.client)
    assert owners.by_node() == {}
    north.lists("a")
    assert owners.by_node() == {"t4": ("north", ["south"])}
    south.beats(0)
    assert owners.by_node() == {}


def test_jobs_of_before_end_and_nothing_starts_in_their_place(queue: OpenClass) -> None:
    """Both clusters had the class before the upgrade that knows whose nodes count."""
    north, south = Cluster(queue, "north"), Cluster(queue, "south")
    south.line.set_nodes(T4, {"x": SLOTS})  # as an older version does
    assert south.send("one") == ["one@x"]
    north.lists("a")
    north.send("two"), north.send("three")
    assert south.ends("one") == []
    assert north.ends("two") == ["three@a"]


@pytest.mark.parametrize("seconds", [HOLDS + 59, HOLDS + 61])
def test_another_cluster_takes_over_a_minute_after_the_last_word(
    queue: OpenClass, seconds: float
) -> None:
    north, south = Cluster(queue, "north"), Cluster(queue, "south")
    north.lists("a", "b")
    assert north.send("one") == ["one@a"]
    queue.now += seconds
    south.beats()
    if seconds < HOLDS + 60:
        with pytest.raises(ServedElsewhere):
            south.lists("a")
        return
    assert south.send("two") == [], "the nodes are not its own"
    south.lists("a", "x")
    assert south.admit() == ["two@x"], "what runs in the other cluster keeps its slot"
    north.beats()
    assert north.ends("one") == []


def test_a_restart_of_the_last_dispatcher_moves_no_class(queue: OpenClass) -> None:
    north, south = Cluster(queue, "north"), Cluster(queue, "south")
    north.lists("a")
    north.beats(0)  # it signs off
    queue.now += 50
    with pytest.raises(ServedElsewhere):
        south.lists("x")


@pytest.mark.parametrize("owner", ["south", ""])
def test_a_class_by_node_is_none_for_whom_it_is_one_domain(queue: OpenClass, owner: str) -> None:
    """Those of another cluster, or of a machine, have other settings of the class."""
    north, other = Cluster(queue, "north"), Cluster(queue, owner, WHOLE)
    north.lists("a")
    if owner:
        with pytest.raises(ServedElsewhere):
            other.lists()
    assert (other.send("one"), north.admit()) == ([], ["one@a"])
    assert north.ends("one") == []
    queue.now += HOLDS + 61
    if owner:
        other.lists()
    assert other.send("two") == ["two@None"], "the other cluster is gone"


def test_a_pod_of_another_cluster_adds_no_node(queue: OpenClass) -> None:
    north, south = Cluster(queue, "north"), Cluster(queue, "south")
    north.lists(more=1)
    [_] = north.send("one")
    queue.now += HOLDS + 61
    south.lists("x")
    north.line.observed([Observation(north.running["one"], node="a")])
    assert "a" not in domains(queue)


def test_attempts_of_one_owner_alone_are_taken_over(schedule_redis: redis.Redis) -> None:
    queue, jobs = OpenClass(schedule_redis), class_key("t4", "jobs")
    owners = {"own": "north", "other": "east", "lost": "north", "later": "north"}
    for name, queue.line.owner in owners.items():
        record: Any = {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}
        queue.line.take_in(replace(WHOLE, shared_slots=4), record, "{}")
    queue.client.hdel(jobs, "lost")
    queue.client.hset(jobs, "later", json.dumps(queue.record("later") | {"attempt": 2}))
    assert Owners(queue.client).take_over("t4", "north", "south") == 1
    assert queue.record("own")["owner"] == "south"
    assert [queue.record(name)["owner"] for name in ("other", "later")] == ["east", "north"]
