"""The writes of one kubelet to the API server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from tests.doubles.kubernetes.objects.bodies import Body, has_ended, key_of
from tests.doubles.kubernetes.objects.deletion import Deletion
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.event_log import EventLog
from tests.doubles.kubernetes.objects.kinds import PODS
from tests.doubles.kubernetes.objects.registry import Registry
from tests.doubles.kubernetes.objects.wire import stamp

log = logging.getLogger(__name__)

#: Conditions that other components own.
_FOREIGN = ("PodScheduled", "DisruptionTarget")


class Reporter:
    """Writes statuses and events, and removes deleted pods.

    While it is not ``online``, events and removals wait for :meth:`flush`. It drops statuses:
    the kubelet publishes all of them when it is back.
    """

    def __init__(self, node: str, registry: Registry, events: EventLog) -> None:
        self.online = True
        self._node = node
        self._registry = registry
        self._store = registry.store
        self._events = events
        self._waiting: list[Callable[[], None]] = []

    def flush(self) -> None:
        """Write the events and do the removals that have waited."""
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            write()

    def current(self, pod: Body) -> Body | None:
        """Return the stored object of a pod, None if it is gone or has another uid."""
        stored = self._store.get(PODS, *key_of(pod))
        if stored is None or stored["metadata"]["uid"] != pod["metadata"]["uid"]:
            return None
        return stored

    def publish(self, pod: Body, status: Body) -> None:
        """Write the status of a pod, whose ``conditions`` have no times yet."""
        stored = self.current(pod) if self.online else None
        if stored is None:
            return
        old = stored["status"]
        # A terminal phase is final, whichever component has written it.
        if has_ended(stored) and status["phase"] not in ("Succeeded", "Failed"):
            return
        foreign = [item for item in old.get("conditions", []) if item["type"] in _FOREIGN]
        for item in foreign:
            if item["type"] == "PodScheduled":
                item["observedGeneration"] = status["observedGeneration"]
        own = _dated(status.get("conditions", []), old.get("conditions", []))
        kept = {key: old[key] for key in ("qosClass",) if key in old}
        stored["status"] = {**kept, **status, "conditions": [*own, *foreign]}
        self._store.save(PODS, stored)

    def record(
        self, pod: Body, reason: str, message: str, container: str = "", *, warning: bool = False
    ) -> None:
        """Write an event about a pod."""

        def write() -> None:
            self._events.record(
                PODS,
                pod,
                reason,
                message,
                component="kubelet",
                warning=warning,
                container=container,
                host=self._node,
            )

        if self.online:
            write()
        else:
            self._waiting.append(write)

    def remove(self, pod: Body) -> None:
        """Remove the object of a deleted pod whose containers have ended."""
        if not self.online:
            self._waiting.append(lambda: self.remove(pod))
            return
        uid = pod["metadata"]["uid"]
        try:
            self._registry.delete(PODS, *key_of(pod), Deletion(grace=0, uid=uid))
        except Refused:  # it is gone already, or another pod has its name
            log.debug("pod %s was gone already", uid)


def _dated(conditions: Sequence[Body], before: Sequence[Body]) -> list[Body]:
    """Return conditions with the times of their last transitions."""
    known = {item["type"]: (item["status"], item["lastTransitionTime"]) for item in before}
    dated = []
    for condition in conditions:
        status, since = known.get(condition["type"], (None, ""))
        if status != condition["status"]:
            since = stamp()
        dated.append({**condition, "lastProbeTime": None, "lastTransitionTime": since})
    return dated
