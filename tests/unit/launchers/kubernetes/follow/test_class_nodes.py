"""The nodes of a class: which take its pods, when they are looked at, and what is said of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.api.cluster_objects import Node
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Forbidden
from gpuqueue.launchers.kubernetes.follow.class_nodes import ClassNodes
from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.sample import sample_pod
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.store.owners import ServedElsewhere

T4 = GpuClass("t4", shared_slots=8, exclusive_slots=1, domain="node", node_selector={"zone": "x"})
WHOLE = GpuClass("whole", shared_slots=8, exclusive_slots=1)
TAINT = {"key": "pool", "value": "gpu", "effect": "NoExecute"}
FULL = {"shared": 8, "exclusive": 1}


def node(name: str, gpus: str | None = "8", ready: str = "True", **spec: Any) -> Node:
    body = {
        "metadata": {"name": name},
        "spec": spec,
        "status": {
            "allocatable": {} if gpus is None else {"nvidia.com/gpu": gpus},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }
    return msgspec.convert(body, Node)


@dataclass
class World:
    """An API server, and what is recorded."""

    monkeypatch: pytest.MonkeyPatch
    classes: tuple[GpuClass, ...] = (T4,)
    nodes: list[Node] = field(default_factory=lambda: [node("a")])
    refuses: ApiError | None = None
    asked: list[str] = field(default_factory=list)
    set: list[tuple[str, Mapping[str, Any] | None]] = field(default_factory=list)
    more: int = 0
    elsewhere: str = ""
    """The other cluster that serves the classes."""
    now: float = 0.0

    def __post_init__(self) -> None:
        self.monkeypatch.setattr(time, "monotonic", lambda: self.now)
        me: Any = self
        settings = ClusterSettings(node_selector_key="gpu", node_selector_value="yes")
        common = ManifestContext("gpus", "us", None, "INFO", 60, 5, 60, 60)
        by_name = {each.name: each for each in self.classes}
        self.of_class = ClassNodes(
            me, me, by_name, lambda each: sample_pod(each, settings, common), "south"
        )

    def list_nodes(self, selector: str = "") -> list[Node]:
        self.asked.append(selector)
        if self.refuses:
            raise self.refuses
        return self.nodes

    def set_nodes(
        self, gpu_class: GpuClass, nodes: Mapping[str, Any] | None, more: int, owner: str
    ) -> None:
        if self.elsewhere:
            raise ServedElsewhere(gpu_class.name, self.elsewhere, owner)
        self.set.append((gpu_class.name, nodes))
        self.more = more

    def check(self, after: float = 0.0, short_of_room: bool = False) -> Mapping[str, Any] | None:
        self.now += after
        self.of_class.check(short_of_room)
        return self.set[-1][1] if self.set else None


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_nodes_are_those_that_take_pods_with_their_shares(world: World) -> None:
    world.nodes = [
        node("full"),
        node("small", "3"),
        node("large", "64"),
        node("none", "0"),
        node("bare", None),
        node("cordoned", unschedulable=True),
        node("away", ready="Unknown"),
        node("tainted", taints=[TAINT]),
        node("preferred", taints=[TAINT | {"effect": "PreferNoSchedule"}]),
        node("tolerated", taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]),
    ]
    assert world.check() == {
        "full": FULL,
        "small": {"shared": 3, "exclusive": 1},
        "large": FULL,
        "preferred": FULL,
        "tolerated": FULL,
    }
    assert world.asked == ["gpu=yes,zone=x"], "the labels that its pods require"


def test_a_job_of_several_gpus_needs_them_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, (GpuClass("t4", exclusive_slots=2, gpus=4, domain="node"),))
    world.nodes = [node("a", "8"), node("b", "7"), node("c", "3")]
    slots = {"shared": 0, "exclusive": 2}
    assert world.check() == {"a": slots, "b": slots | {"exclusive": 1}}


def test_nodes_are_looked_at_again_and_sooner_without_room(world: World) -> None:
    for after, short_of_room, asked in (
        (0, False, 1),
        (14, False, 1),
        (1, False, 2),
        (2, True, 2),
        (1, True, 3),
    ):
        world.check(after, short_of_room)
        assert len(world.asked) == asked
    world.of_class.forget()
    world.check()
    assert len(world.asked) == 4, "it leads again"


def test_a_node_is_gone_once_a_list_is_without_it(world: World) -> None:
    assert not world.of_class.is_gone("t4", "a"), "nothing is known yet"
    world.check()
    assert [world.of_class.is_gone("t4", name) for name in "ab"] == [False, True]
    world.nodes = []
    assert world.check(15) == {}
    assert world.of_class.is_gone("t4", "a")


@pytest.mark.parametrize("error", [ApiError("no answer"), Forbidden("nodes is forbidden")])
def test_what_cannot_be_read_changes_nothing_and_is_told_once(
    world: World, error: ApiError, caplog: pytest.LogCaptureFixture
) -> None:
    world.refuses = error
    assert world.check() is None
    world.check(15)
    told = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(told) == 1
    assert "its nodes are unknown, no job starts" in told[0]
    assert ("ClusterRole" in told[0]) == isinstance(error, Forbidden)
    world.refuses = None
    assert world.check(15) == {"a": FULL}
    world.refuses = error
    world.check(15)
    assert not world.of_class.is_gone("t4", "a")
    assert "those known before stay" in caplog.text


def test_a_list_of_nodes_needs_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = GpuClass("t4", shared_slots=8, exclusive_slots=1, domain="node", nodes=["a", "b"])
    world = World(monkeypatch, (listed,))
    assert world.check() == {"a": FULL, "b": FULL}
    assert world.asked == []


def test_nodes_that_may_come_are_those_beside_all_that_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, (replace(T4, scale_to=4),))
    world.nodes = [node("a"), node("cordoned", unschedulable=True), node("cpu", None)]
    assert world.check() == {"a": FULL}
    assert world.more == 2, "one without a GPU is none of the class"
    world.nodes = [node(each) for each in "abcde"]
    world.check(15)
    assert world.more == 0
    world = World(monkeypatch, (replace(T4, scale_to=4, nodes=["x"]),))
    assert (world.check(), world.more) == ({"x": FULL}, 3)


def test_a_node_that_may_have_come_since_a_look_is_not_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, (replace(T4, scale_to=4),))
    world.check()
    assert not world.of_class.is_gone("t4", "b"), "its pods have made it come"
    world.nodes = [node("b")]
    world.check(15)
    assert [world.of_class.is_gone("t4", name) for name in "ab"] == [True, False]
    world.nodes = [node("a")]
    world.check(15)
    assert [world.of_class.is_gone("t4", name) for name in "ab"] == [False, True]


def test_a_class_without_nodes_is_one_domain_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, (WHOLE,))
    world.check()
    world.check(15)
    assert (world.set, world.asked) == ([("whole", None)], [])


@pytest.mark.parametrize("classes", [(T4,), (WHOLE,)])
def test_a_class_of_another_cluster_is_tried_again_until_it_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, classes: tuple[GpuClass, ...]
) -> None:
    world, name = World(monkeypatch, classes, elsewhere="north"), classes[0].name
    for _ in range(2):
        assert world.check(20) is None
    assert world.of_class.elsewhere == {name: "north"}
    assert not world.of_class.is_gone(name, "a"), "its pods here are as they were"
    assert caplog.text.count("north, whose dispatchers live and start its jobs; south starts") == 1
    world.elsewhere = ""
    world.check(20)
    assert [each for each, _ in world.set] == [name]
    assert world.of_class.elsewhere == {}
