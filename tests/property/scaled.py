"""A class whose nodes an autoscaler adds, and the pods of its jobs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Observation
from gpuqueue.model.ends import End
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.unbound import is_unbound
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.domains import Domains
from tests.property.test_node_domains import SLOTS, T4, Queue

AUTO = replace(T4, scale_to=3)


class Scaled(Queue):
    """Jobs of a cluster whose autoscaler adds nodes."""

    gpu_class: GpuClass

    def look(self, *nodes: str, refused: int = 0) -> bool:
        """The leader lists the nodes; ``refused`` others exist and take no pods."""
        assert self.gpu_class.scale_to
        fixed = len(self.gpu_class.nodes)
        more = max(0, self.gpu_class.scale_to - (fixed or len(nodes)) - refused)
        return self.line.set_nodes(self.gpu_class, dict.fromkeys(nodes, SLOTS), more)

    def domain(self, name: str) -> str:
        found: str = self.record(name)["domain"]
        return found

    def lands(self, name: str, node: str) -> None:
        """Its pod has got a node."""
        self.line.observed([Observation(self.attempt(name), pod=f"pod-{name}", node=node)])

    def claims(self, name: str) -> None:
        """Its executor runs."""
        record = self.running[name]
        ExecutorAttempt(self.client, self.attempt(name), record["token"]).claim("", "w")

    def stopped(self) -> list[str]:
        return [each.delivery for each, _ in self.reader.todo("t4", self.now).stopping]

    def of_nodes(self) -> dict[str, dict[str, int]]:
        """Node → its holders by isolation."""
        return {each.name: each.held for each in Domains(self.client).of("t4") if each.bound}

    def to_come(self) -> list[str]:
        return [each.name for each in Domains(self.client).of("t4") if not each.bound]

    def finds_no_node(self, name: str) -> list[str]:
        """No node comes for its pod in time, and it is deleted."""
        text = "no node took its pod within 600 s"
        end = End(EndReason.UNSCHEDULABLE, text, blames=PlaceKind.SCHEDULING)
        assert self.line.give_up(self.attempt(name), end)
        return self.ends(name, End(EndReason.POD_DELETED, "deleted"))


class Kubernetes:
    """Where the pods are, by the rules that they carry. ``nodes``: those that exist."""

    def __init__(self, queue: Scaled) -> None:
        self.queue = queue
        self.nodes: list[str] = []
        self.pods: dict[str, dict[str, Any]] = {}  # job → its pod
        self.made = 0

    def start(self, started: list[str]) -> None:
        for name in (each.partition("@")[0] for each in started):
            record = self.queue.record(name)
            self.pods[name] = {
                "isolation": record["isolation"],
                "label": record.get("origin") or record["domain"],
                "pinned": None if is_unbound(record["domain"]) else record["domain"],
                "node": None,
                "told": False,
                "away": record.get("away", []),
            }

    def takes(self, node: str, pod: dict[str, Any]) -> bool:
        there = [each for each in self.pods.values() if each["node"] == node]
        isolations = [each["isolation"] for each in there]
        free = SLOTS["shared"] - len(there)
        apart = (pod["isolation"] == "exclusive" and there) or "exclusive" in isolations
        if free <= 0 or apart or pod["pinned"] not in (None, node) or node in pod["away"]:
            return False
        # A pod with a node to come keeps all others off, and so do those that are there.
        if any(
            each["label"] != pod["label"] and None in (each["pinned"], pod["pinned"])
            for each in there
        ):
            return False
        mine = {each["node"] for each in self.pods.values() if each["label"] == pod["label"]}
        return pod["pinned"] is not None or not mine - {None} or node in mine

    def schedule(self) -> None:
        """Place pods."""
        for _, pod in sorted(self.pods.items()):
            node = next((each for each in self.nodes if self.takes(each, pod)), None)
            if pod["node"] is None and node:
                pod["node"] = node

    def tell(self) -> None:
        """Let the leader see where the pods are."""
        for name, pod in sorted(self.pods.items()):
            if pod["node"] and not pod["told"]:
                pod["told"] = True
                self.queue.lands(name, pod["node"])

    def claim(self, which: int) -> None:
        """Let the executor of a pod begin, which its leader may not have seen yet."""
        ready = [
            name
            for name, pod in sorted(self.pods.items())
            if pod["node"] and self.queue.record(name)["state"] == "launching"
        ]
        if ready and not self.queue.record(name := ready[which % len(ready)]).get("doomed"):
            self.queue.claims(name)

    def check(self) -> None:
        """The rule holds on each node, and in each domain of the books."""
        for node in {each["node"] for each in self.pods.values()} - {None}:
            there = [each["isolation"] for each in self.pods.values() if each["node"] == node]
            assert len(set(there)) == 1 and len(there) <= SLOTS[there[0]], (node, there)
        domains = Domains(self.queue.client).of("t4")
        for each in domains:
            assert not (each.held["shared"] and each.held["exclusive"]), each
            assert all(each.held[kind] <= SLOTS[kind] for kind in SLOTS), each
        idle = [each for each in domains if not each.bound and not any(each.held.values())]
        bound = [each for each in domains if each.bound]
        assert len(idle) + len(bound) <= max(3, len(bound)), "no more nodes than the class may have"
