"""A fault of the pods of one node alone is that of the node, and else that of their class.

The pods are made as the recordings of `native_sidecar` and `command_not_found` have theirs: an init
container that fails for good is from documentation.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.kubernetes.api.objects import Pod
from gpuqueue.launchers.kubernetes.follow.node_starts import PROVES, NodeStarts
from gpuqueue.launchers.kubernetes.follow.pod_table import PodTable
from gpuqueue.model.ends import REJECTION, End
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason
from tests.support.pod_objects import a_pod, ended, running, waiting

HELD = End(EndReason.BAD_SPEC, "its init container failed", blames=PlaceKind.PODS)


class World:
    """Two classes, one of which may grow, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        classes = {"t4": GpuClass("t4"), "grows": GpuClass("grows", scale_to=9)}
        self.starts = NodeStarts(classes, lambda: self.now)
        self.table = PodTable()

    def sees(self, uid: str, node: str, *pods: Pod, image: str = "") -> None:
        """See the states of a pod."""
        for pod in pods:
            metadata = msgspec.structs.replace(pod.metadata, uid=uid)
            spec = msgspec.structs.replace(pod.spec, node_name=node)
            pod = msgspec.structs.replace(pod, metadata=metadata, spec=spec)
            self.starts.changed(self.table.put(pod, self.now), "t4", image)

    def end_on(self, node: str, end: End = HELD, gpu_class: str = "t4") -> End:
        return self.starts.where_it_belongs(end, node, gpu_class)


INIT = a_pod(waiting("PodInitializing"), inits=[running("agent")])
RUNS = a_pod(running(), phase="Running", inits=[ended(0, "Completed", name="agent")])
SHORT = a_pod(ended(0, "Completed"), phase="Succeeded")
FAILED = a_pod(waiting("PodInitializing"), phase="Failed", inits=[ended(2, name="agent")])


@pytest.mark.parametrize("started", [RUNS, SHORT], ids=["it runs", "it has ended by now"])
def test_a_node_that_fails_pods_alone_is_at_fault(started: Pod) -> None:
    world = World()
    world.sees("1", "good", INIT, started)
    world.sees("2", "bad", INIT, FAILED)
    end = world.end_on("bad")
    assert (end.reason, end.avoid, end.blames) == (EndReason.INFRA, "bad", REJECTION)
    assert end.error.startswith(HELD.error)
    assert world.end_on("good").blames == PlaceKind.PODS
    assert world.end_on("bad", gpu_class="a100").blames == PlaceKind.PODS


@pytest.mark.parametrize("blames", [PlaceKind.IMAGE, ""], ids=["its class", "its job alone"])
def test_a_node_that_alone_pulls_no_image_is_at_fault(blames: str) -> None:
    """Its mirror may lack an image that the registry has."""
    world = World()
    own = "far.example/train:7"
    world.sees("1", "good", INIT, RUNS)
    end = End(EndReason.IMAGE, "not found", blames=blames)
    told = world.starts.where_it_belongs(end, "bad", "t4", own)
    assert told == (replace(end, avoid="bad") if blames else end), "it is of another image"
    world.sees("2", "good", INIT, RUNS, image=own)
    told = world.starts.where_it_belongs(end, "bad", "t4", own)
    assert (told.reason, told.avoid, told.blames) == (EndReason.INFRA, "bad", REJECTION)


def test_what_fails_where_pods_have_started_lately_holds_the_class() -> None:
    world = World()
    for uid, node in (("1", "good"), ("2", "bad")):
        world.sees(uid, node, INIT, RUNS)
    assert world.end_on("bad").blames == PlaceKind.PODS


def test_a_start_of_long_ago_proves_nothing() -> None:
    world = World()
    world.sees("1", "good", INIT, RUNS)
    world.now = PROVES
    assert world.end_on("bad").blames == PlaceKind.PODS
    world.sees("2", "good", RUNS)  # as a new leader sees it: it may run for days
    assert world.end_on("bad").blames == PlaceKind.PODS


def test_a_job_that_meets_a_hold_of_its_pods_prefers_another_node() -> None:
    world = World()
    assert world.end_on("bad") == replace(HELD, avoid="bad")
    assert world.end_on("bad", gpu_class="grows") == HELD, "no node is added for that"
    assert world.end_on("") == HELD
    other = End(EndReason.QUOTA, "full", blames=PlaceKind.QUOTA)
    assert world.end_on("bad", other) == other


def test_pods_that_are_gone_leave_nothing_in_the_starts() -> None:
    world = World()
    world.sees("1", "good", INIT)
    world.starts.forget("1")
    assert not world.starts._waiting
