"""A cluster autoscaler with one group of nodes: it adds one for pods that no node takes, up to a
number. It removes none: ``faults.node_deleted`` does.

No recording has it: it does what the cluster-autoscaler documents, in the words of its events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial

from tests.doubles.kubernetes.controllers.scheduler import Scheduler
from tests.doubles.kubernetes.engine.loop import AUTOSCALER as PART
from tests.doubles.kubernetes.engine.loop import Engine
from tests.doubles.kubernetes.objects import fit
from tests.doubles.kubernetes.objects.bodies import Body, condition_of, has_ended, is_terminating
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.kinds import PODS
from tests.doubles.kubernetes.objects.neighbours import Neighbours
from tests.doubles.kubernetes.objects.node import Node
from tests.doubles.kubernetes.objects.store import Change, Store

_COMPONENT = "cluster-autoscaler"
#: Seconds between two scans (its default), and from the request of a machine to its node.
SCAN, MACHINE = 10.0, 60.0


class Autoscaler:
    """Runs in the engine's thread. Does nothing until :meth:`scale`."""

    def __init__(
        self,
        store: Store,
        events: EventLog,
        engine: Engine,
        scheduler: Scheduler,
        join: Callable[[Node], None],
    ) -> None:
        self._store = store
        self._events = events
        self._engine = engine
        self._scheduler = scheduler
        self._join = join
        self._template: Node | None = None
        self._most = 0
        self._made = 0
        self._coming: list[str] = []
        self._waits = False

    def scale(self, template: Node, most: int) -> None:
        """Add nodes like a template from now on, up to a number of them."""
        with self._store.lock:
            if self._template is None:
                self._store.subscribe(PODS, self._pod_changed)
            self._template, self._most = template, most
            self._scan_soon()

    def _pod_changed(self, change: Change) -> None:
        if _finds_no_node(change.body):
            self._scan_soon()

    def _scan_soon(self) -> None:
        if not self._waits:
            self._waits = True
            self._engine.after(PART, SCAN, self._scan)

    def _scan(self) -> None:
        """Add nodes for the pods that fit neither on those that exist nor on those to come."""
        self._waits = False
        simulated = self._scheduler.neighbours.copy()
        used: dict[str, fit.Amounts] = {name: {} for name in self._coming}
        pods = [each for each in self._store.bodies(PODS) if _finds_no_node(each)]
        for pod in sorted(pods, key=lambda each: each["metadata"]["creationTimestamp"]):
            if not any(self._put(pod, name, used[name], simulated) for name in used):
                self._add_for(pod, used, simulated)

    def _add_for(self, pod: Body, used: dict[str, fit.Amounts], simulated: Neighbours) -> None:
        name = f"{self._group}-{self._made + 1}"
        if not self._put(pod, name, {}, simulated):
            self._tell(pod, "NotTriggerScaleUp", "pod didn't trigger scale-up: ")
        elif self._made >= self._most:
            simulated.give_back(name, pod["metadata"]["uid"])
            why = "pod didn't trigger scale-up: 1 max node group size reached"
            self._tell(pod, "NotTriggerScaleUp", why)
        else:
            sizes = f"{self._made}->{self._made + 1} (max: {self._most})"
            self._made += 1
            self._coming.append(name)
            used[name] = fit.requests(pod)
            self._tell(
                pod, "TriggeredScaleUp", f"pod triggered scale-up: [{{{self._group} {sizes}}}]"
            )
            self._engine.after(PART, MACHINE, partial(self._joins, name))

    @property
    def _group(self) -> str:
        assert self._template is not None
        return self._template.name

    def _put(self, pod: Body, name: str, used: fit.Amounts, simulated: Neighbours) -> bool:
        """Put a pod on a node to come, if it fits there."""
        assert self._template is not None
        body, wanted = replace(self._template, name=name).body(""), fit.requests(pod)
        if fit.obstacles(pod, body, wanted, used) or simulated.misfit(pod, name):
            return False
        for resource, amount in wanted.items():
            used[resource] = used.get(resource, Decimal(0)) + amount
        simulated.take(name, pod)
        return True

    def _joins(self, name: str) -> None:
        assert self._template is not None
        self._coming.remove(name)
        self._join(replace(self._template, name=name))
        self._scan_soon()

    def _tell(self, pod: Body, reason: str, message: str) -> None:
        self._events.record(PODS, pod, reason, message, component=_COMPONENT)


def _finds_no_node(pod: Body) -> bool:
    if pod["spec"].get("nodeName") or has_ended(pod) or is_terminating(pod):
        return False
    placed = condition_of(pod, "PodScheduled")
    return placed is not None and placed["status"] == "False"
