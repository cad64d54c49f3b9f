"""The scheduler: binds pods to nodes, says why it cannot, and preempts pods of a lower priority."""

from __future__ import annotations

import time
from decimal import Decimal

from tests.doubles.kubernetes.engine import delays
from tests.doubles.kubernetes.engine.loop import SCHEDULER as PART
from tests.doubles.kubernetes.engine.loop import Engine, Timer
from tests.doubles.kubernetes.objects import fit
from tests.doubles.kubernetes.objects.deletion import Deletion, disrupt
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.kinds import NODES, PODS
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.store import DELETED, Body, Change, key_of
from tests.doubles.kubernetes.objects.wire import stamp

_COMPONENT, _INSTANCE = "default-scheduler", "default-scheduler-double"
_ENDED = ("Succeeded", "Failed")
_NOT_HELPFUL = "Preemption is not helpful for scheduling"
_NO_VICTIMS = "No preemption victims found for incoming pod"
_PREEMPTING = "default-scheduler: preempting to accommodate a higher priority pod"


class Scheduler:
    """Everything runs in the engine's thread."""

    def __init__(self, registry: Registry, events: EventLog, engine: Engine) -> None:
        self._registry = registry
        self._store = registry.store
        self._events = events
        self._engine = engine
        self._waiting: dict[str, Body] = {}
        self._on: dict[str, dict[str, fit.Amounts]] = {}
        """Node → uid → what each pod takes of it."""
        self._used: dict[str, fit.Amounts] = {}
        self._timer: Timer | None = None
        self._store.subscribe(PODS, self._pod_changed)
        self._store.subscribe(NODES, lambda change: self._look(delays.RESCHEDULE))

    def used(self, node: str) -> fit.Amounts:
        """What is taken of a node."""
        return dict(self._used.get(node, {}))

    def _pod_changed(self, change: Change) -> None:
        pod, uid = change.body, change.body["metadata"]["uid"]
        node = pod["spec"].get("nodeName", "")
        gone = change.kind == DELETED or pod["status"].get("phase") in _ENDED
        if node and not gone and uid not in self._on.get(node, {}):
            self._take(node, uid, fit.requests(pod))
        elif node and gone and uid in self._on.get(node, {}):
            self._give_back(node, uid)
            if self._waiting:
                self._look(delays.SCHEDULE)
        if not node and not gone and "deletionTimestamp" not in pod["metadata"]:
            if uid not in self._waiting:
                self._waiting[uid] = pod
                self._look(delays.SCHEDULE)
        else:
            self._waiting.pop(uid, None)

    def _take(self, node: str, uid: str, amounts: fit.Amounts) -> None:
        self._on.setdefault(node, {})[uid] = amounts
        used = self._used.setdefault(node, {})
        for name, amount in amounts.items():
            used[name] = used.get(name, Decimal(0)) + amount

    def _give_back(self, node: str, uid: str) -> None:
        for name, amount in self._on[node].pop(uid).items():
            self._used[node][name] -= amount

    def _look(self, seconds: float) -> None:
        due = time.monotonic() + seconds * self._engine.pace
        if self._timer is not None and self._timer.waits:
            if self._timer.due <= due:
                return
            self._timer.cancel()
        self._timer = self._engine.after(PART, seconds, self._round)

    def _round(self) -> None:
        """Look at all pods that wait, the important ones first."""
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
            reasons = fit.hindrances(pod, node, wanted, self._used.get(name, {}))
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
            fit.liking(pod["spec"], node),
            -busy,
            "".join(chr(0x10FFFF - ord(letter)) for letter in name),
        )

    def _bind(self, pod: Body, node: Body, wanted: fit.Amounts) -> None:
        name = node["metadata"]["name"]
        uid = pod["metadata"]["uid"]
        self._waiting.pop(uid, None)
        self._take(name, uid, wanted)
        pod["spec"]["nodeName"] = name
        pod["status"].pop("nominatedNodeName", None)
        _condition(pod, {"type": "PodScheduled", "status": "True"})
        namespace, called = key_of(pod)
        told = f"Successfully assigned {namespace}/{called} to {name}"
        self._tell(pod, "Scheduled", told, "Binding")
        self._store.save(PODS, pod)

    def _wait(self, pod: Body, message: str, node: str = "") -> None:
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
        }
        known: Body = next(
            (
                item
                for item in pod["status"].get("conditions", ())
                if item["type"] == "PodScheduled"
            ),
            {},
        )
        if node:
            pod["status"]["nominatedNodeName"] = node
        if known.get("message") != message:
            _condition(pod, condition)
            self._tell(pod, "FailedScheduling", message, "Scheduling", warning=True)
        self._store.save(PODS, pod)

    def _explained(
        self, nodes: list[Body], wanted: fit.Amounts, refusals: dict[str, list[str]]
    ) -> str:
        if not nodes:
            return "no nodes available to schedule pods"
        helps = []
        for node in nodes:
            reasons = refusals[node["metadata"]["name"]]
            fixed = not all(reason.startswith(("Insufficient", "Too many")) for reason in reasons)
            helps.append(_NOT_HELPFUL if fixed or fit.never(node, wanted) else _NO_VICTIMS)
        reasons = [reason for told in refusals.values() for reason in told]
        return (
            f"{fit.told(len(nodes), reasons)} no new claims to deallocate, preemption:"
            f" {fit.told(len(nodes), helps)}"
        )

    def _preempt(
        self, pod: Body, nodes: list[Body], wanted: fit.Amounts, refusals: dict[str, list[str]]
    ) -> bool:
        """Make room by deleting pods of a lower priority; True if that is under way."""
        nominated = pod["status"].get("nominatedNodeName")
        if nominated and any(
            "deletionTimestamp" in item["metadata"] for item in self._pods_of(nominated)
        ):
            return True  # the victims are still on their way out
        for node in nodes:
            victims = None if fit.misfit(pod, node) else self._victims(pod, node, wanted)
            if victims:
                name = node["metadata"]["name"]
                # The event first, then the victims, then their deletion, as the scheduler does it.
                self._wait(
                    pod,
                    fit.told(len(nodes), [reason for told in refusals.values() for reason in told]),
                    name,
                )
                for victim in victims:
                    self.preempt(
                        victim, f"Preempted by pod {pod['metadata']['uid']} on node {name}"
                    )
                return True
        return False

    def preempt(self, victim: Body, told: str) -> None:
        """Delete a pod to make room."""
        disrupt(victim, "PreemptionByScheduler", _PREEMPTING)
        self._store.save(PODS, victim)
        self._tell(victim, "Preempted", told, "Preempting")
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

    def _tell(
        self, pod: Body, reason: str, message: str, action: str, *, warning: bool = False
    ) -> None:
        self._events.tell(
            PODS,
            pod,
            reason,
            message,
            component=_COMPONENT,
            host=_INSTANCE,
            action=action,
            warning=warning,
        )


def _condition(pod: Body, condition: Body) -> None:
    others = [
        item for item in pod["status"].get("conditions", []) if item["type"] != condition["type"]
    ]
    dated = {**condition, "lastProbeTime": None, "lastTransitionTime": stamp()}
    pod["status"]["conditions"] = [*others, dated]
