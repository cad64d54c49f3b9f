"""The scheduler: it binds pods to nodes, reports why it cannot, and preempts pods of a lower
priority, though none that another pod's affinity keeps off its node.
"""

from __future__ import annotations

import itertools
import time
from decimal import Decimal

from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.engine.loop import SCHEDULER as PART
from tests.doubles.kubernetes.engine.loop import Engine, Timer
from tests.doubles.kubernetes.objects import fit
from tests.doubles.kubernetes.objects.bodies import (
    Body,
    condition_of,
    has_ended,
    is_terminating,
    key_of,
    put_condition,
)
from tests.doubles.kubernetes.objects.deletion import Deletion, disrupt
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.kinds import NODES, PODS
from tests.doubles.kubernetes.objects.neighbours import PASSING, Neighbours
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import DELETED, Change
from tests.doubles.kubernetes.objects.wire import stamp

_COMPONENT, _INSTANCE = "default-scheduler", "default-scheduler-double"
_NOT_HELPFUL = "Preemption is not helpful for scheduling"
_NO_VICTIMS = "No preemption victims found for incoming pod"
_PREEMPTING = "default-scheduler: preempting to accommodate a higher priority pod"


class Scheduler:
    """Runs in the engine's thread."""

    def __init__(self, registry: Registry, events: EventLog, engine: Engine) -> None:
        self._registry = registry
        self._store = registry.store
        self._events = events
        self._engine = engine
        self._waiting: dict[str, Body] = {}
        self._gated: set[str] = set()
        self._on: dict[str, dict[str, fit.Amounts]] = {}
        """Node → uid of a pod → its requests."""
        self._used: dict[str, fit.Amounts] = {}
        self.neighbours = Neighbours()
        self._timer: Timer | None = None
        self._store.subscribe(PODS, self._pod_changed)
        self._store.subscribe(NODES, lambda change: self._schedule_round(delays.RESCHEDULE))

    def used(self, node: str) -> fit.Amounts:
        """Return the sum of the requests of a node's pods."""
        return dict(self._used.get(node, {}))

    def _pod_changed(self, change: Change) -> None:
        pod, uid = change.body, change.body["metadata"]["uid"]
        node = pod["spec"].get("nodeName", "")
        gone = change.kind == DELETED or has_ended(pod)
        if node and not gone and uid not in self._on.get(node, {}):
            self._take(node, pod, fit.requests(pod))
        elif node and gone and uid in self._on.get(node, {}):
            self._give_back(node, uid)
            if self._waiting:
                self._schedule_round(delays.SCHEDULE)
        if not node and not gone and not is_terminating(pod):
            gated = bool(pod["spec"].get("schedulingGates"))
            if uid not in self._waiting or (uid in self._gated and not gated):
                self._waiting[uid] = pod
                self._schedule_round(delays.SCHEDULE)
            (self._gated.add if gated else self._gated.discard)(uid)
        else:
            self._waiting.pop(uid, None)
            self._gated.discard(uid)

    def _take(self, node: str, pod: Body, amounts: fit.Amounts) -> None:
        self._on.setdefault(node, {})[pod["metadata"]["uid"]] = amounts
        self.neighbours.take(node, pod)
        used = self._used.setdefault(node, {})
        for name, amount in amounts.items():
            used[name] = used.get(name, Decimal(0)) + amount

    def _give_back(self, node: str, uid: str) -> None:
        self.neighbours.give_back(node, uid)
        for name, amount in self._on[node].pop(uid).items():
            self._used[node][name] -= amount

    def _schedule_round(self, seconds: float) -> None:
        due = time.monotonic() + seconds * self._engine.pace
        if self._timer is not None and self._timer.waits:
            if self._timer.due <= due:
                return
            self._timer.cancel()
        self._timer = self._engine.after(PART, seconds, self._round)

    def _round(self) -> None:
        """Schedule all pods that wait, by priority."""
        self._timer = None
        nodes = list(self._store.bodies(NODES))
        for pod in sorted(self._waiting.values(), key=lambda pod: -pod["spec"].get("priority", 0)):
            self._schedule(pod, nodes)

    def _schedule(self, pod: Body, nodes: list[Body]) -> None:
        if pod["spec"].get("schedulingGates"):
            return
        wanted = fit.requests(pod)
        refusals: dict[str, list[str]] = {}
        good: list[Body] = []
        for node in nodes:
            name = node["metadata"]["name"]
            reasons = fit.obstacles(pod, node, wanted, self._used.get(name, {}))
            if not reasons and (kept_off := self.neighbours.misfit(pod, name)):
                reasons = [kept_off]
            if reasons:
                refusals[name] = reasons
            else:
                good.append(node)
        if good:
            self._bind(pod, max(good, key=lambda node: self._score(pod, node, wanted)), wanted)
        elif not self._preempt(pod, nodes, wanted, refusals):
            self._wait(pod, self._explained(nodes, wanted, refusals))

    def _score(self, pod: Body, node: Body, wanted: fit.Amounts) -> tuple[int, Decimal, str]:
        name = node["metadata"]["name"]
        used = self._used.get(name, {})
        busy = sum((used.get(key, Decimal(0)) for key in wanted if "/" in key), Decimal(0))
        return (
            fit.preference(pod["spec"], node),
            -busy,
            "".join(chr(0x10FFFF - ord(letter)) for letter in name),
        )

    def _bind(self, pod: Body, node: Body, wanted: fit.Amounts) -> None:
        name = node["metadata"]["name"]
        uid = pod["metadata"]["uid"]
        self._waiting.pop(uid, None)
        self._take(name, pod, wanted)
        pod["spec"]["nodeName"] = name
        pod["status"].pop("nominatedNodeName", None)
        _put_condition(pod, {"type": "PodScheduled", "status": "True"})
        message = f"Successfully assigned {'/'.join(key_of(pod))} to {name}"
        self._record(pod, "Scheduled", message, "Binding")
        self._store.save(PODS, pod)

    def _wait(self, pod: Body, message: str, node: str = "") -> None:
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
        }
        known = condition_of(pod, "PodScheduled")
        if node:
            pod["status"]["nominatedNodeName"] = node
        if known is None or known.get("message") != message:
            _put_condition(pod, condition)
            self._record(pod, "FailedScheduling", message, "Scheduling", warning=True)
        self._store.save(PODS, pod)

    def _explained(
        self, nodes: list[Body], wanted: fit.Amounts, refusals: dict[str, list[str]]
    ) -> str:
        if not nodes:
            return "no nodes available to schedule pods"
        helps = []
        for node in nodes:
            reasons = refusals[node["metadata"]["name"]]
            fixed = not all(
                reason in PASSING or reason.startswith(("Insufficient", "Too many"))
                for reason in reasons
            )
            helps.append(_NOT_HELPFUL if fixed or fit.exceeds(node, wanted) else _NO_VICTIMS)
        return (
            f"{_summary(nodes, refusals)} no new claims to deallocate, preemption:"
            f" {fit.summary(len(nodes), helps)}"
        )

    def _preempt(
        self, pod: Body, nodes: list[Body], wanted: fit.Amounts, refusals: dict[str, list[str]]
    ) -> bool:
        """Delete pods of a lower priority to make room; True if that is under way."""
        nominated = pod["status"].get("nominatedNodeName")
        if nominated and any(is_terminating(item) for item in self._pods_of(nominated)):
            return True  # the victims are still terminating
        for node in nodes:
            name = node["metadata"]["name"]
            fixed = fit.misfit(pod, node) or self.neighbours.misfit(pod, name)
            victims = None if fixed else self._victims(pod, node, wanted)
            if victims:
                # As the scheduler does: first the event, then the victims with their events.
                self._wait(pod, _summary(nodes, refusals), name)
                message = f"Preempted by pod {pod['metadata']['uid']} on node {name}"
                for victim in victims:
                    self.preempt(victim, message)
                return True
        return False

    def preempt(self, victim: Body, message: str) -> None:
        """Delete a pod to make room."""
        disrupt(victim, "PreemptionByScheduler", _PREEMPTING)
        self._store.save(PODS, victim)
        self._record(victim, "Preempted", message, "Preempting")
        self._registry.delete(PODS, *key_of(victim), Deletion(uid=victim["metadata"]["uid"]))

    def _victims(self, pod: Body, node: Body, wanted: fit.Amounts) -> list[Body] | None:
        priority = pod["spec"].get("priority", 0)
        lower = [
            item
            for item in self._pods_of(node["metadata"]["name"])
            if item["spec"].get("priority", 0) < priority
        ]
        used = self.used(node["metadata"]["name"])
        victims: list[Body] = []
        for victim in sorted(lower, key=lambda item: item["spec"].get("priority", 0)):
            if not fit.shortages(node, wanted, used):
                break
            for name, amount in fit.requests(victim).items():
                used[name] -= amount
            victims.append(victim)
        return None if fit.shortages(node, wanted, used) else victims

    def _pods_of(self, node: str) -> list[Body]:
        uids = self._on.get(node, {})
        return [pod for pod in self._store.bodies(PODS) if pod["metadata"]["uid"] in uids]

    def _record(
        self, pod: Body, reason: str, message: str, action: str, *, warning: bool = False
    ) -> None:
        self._events.record(
            PODS,
            pod,
            reason,
            message,
            component=_COMPONENT,
            host=_INSTANCE,
            action=action,
            warning=warning,
        )


def _put_condition(pod: Body, condition: Body) -> None:
    put_condition(pod, {**condition, "lastProbeTime": None, "lastTransitionTime": stamp()})


def _summary(nodes: list[Body], refusals: dict[str, list[str]]) -> str:
    return fit.summary(len(nodes), itertools.chain.from_iterable(refusals.values()))
