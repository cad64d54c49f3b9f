"""Events: what controllers, scheduler and kubelets report about objects."""

from __future__ import annotations

import itertools
import time
from collections import deque

from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.kinds import EVENTS, Resource
from tests.doubles.kubernetes.objects.store import Store
from tests.doubles.kubernetes.objects.wire import micro_stamp, stamp

#: Events kept. A real cluster removes them after an hour.
KEPT = 20_000


class EventLog:
    """Writes events; a repeated event raises the count of the first one.

    Args:
        store: the store of the Event objects.
        enabled: False writes none, for benchmarks.
    """

    def __init__(self, store: Store, *, enabled: bool = True) -> None:
        self._store = store
        self._enabled = enabled
        self._numbers = itertools.count(time.time_ns())
        self._known: dict[tuple[str, ...], Body] = {}
        self._order: deque[tuple[tuple[str, ...] | None, Body]] = deque()

    def record(
        self,
        resource: Resource,
        body: Body,
        reason: str,
        message: str,
        *,
        component: str,
        warning: bool = False,
        container: str = "",
        host: str = "",
        action: str = "",
    ) -> None:
        """Write an event about an object.

        Args:
            resource: the kind of the object.
            body: the object.
            reason: one word.
            message: a sentence.
            component: the component that reports the event.
            warning: the type is Warning, not Normal.
            container: the container of a pod.
            host: the node of the kubelet that reports the event.
            action: the action of the scheduler; such events are not counted.
        """
        if not self._enabled:
            return
        uid = body["metadata"]["uid"]
        key = None if action else (component, uid, reason, message, container)
        known = None if key is None else self._known.get(key)
        if known is not None:
            known["count"] += 1
            known["lastTimestamp"] = stamp()
            self._store.save(EVENTS, known)
            return
        event: Body = {
            "metadata": self._metadata(body),
            "involvedObject": _reference(resource, body, container),
            "reason": reason,
            "message": message,
            "type": "Warning" if warning else "Normal",
            "reportingComponent": component,
            "reportingInstance": host,
            **(_action(action) if action else _first(component, host)),
        }
        self._add(key, event)

    def _metadata(self, body: Body) -> Body:
        about = body["metadata"]
        name = f"{about['name']}.{next(self._numbers):x}"
        return {"name": name, "namespace": about.get("namespace", "default")}

    def _add(self, key: tuple[str, ...] | None, event: Body) -> None:
        if key is not None:
            self._known[key] = event
        self._store.add(EVENTS, event)
        self._order.append((key, event))
        if len(self._order) > KEPT:
            old, gone = self._order.popleft()
            if old is not None:
                self._known.pop(old, None)
            self._store.remove(EVENTS, gone)


def _reference(resource: Resource, body: Body, container: str) -> Body:
    metadata = body["metadata"]
    reference = {
        "kind": resource.kind,
        "apiVersion": resource.api_version,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "resourceVersion": metadata["resourceVersion"],
    }
    if resource.namespaced:
        reference["namespace"] = metadata["namespace"]
    if container:
        initial = body["spec"].get("initContainers") or ()
        kind = "initContainers" if any(it["name"] == container for it in initial) else "containers"
        reference["fieldPath"] = f"spec.{kind}{{{container}}}"
    return reference


def _action(action: str) -> Body:
    """Return the fields of an event of the scheduler, which uses the newer API of events."""
    return {
        "action": action,
        "eventTime": micro_stamp(),
        "firstTimestamp": None,
        "lastTimestamp": None,
        "source": {},
    }


def _first(component: str, host: str) -> Body:
    """Return the fields of the first event of a series."""
    now = stamp()
    return {
        "count": 1,
        "eventTime": None,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": component, **({"host": host} if host else {})},
    }
