"""Events: what controllers, scheduler and kubelets tell of what they do."""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import Any

from tests.doubles.kubernetes.objects.kinds import EVENTS, PODS, Resource
from tests.doubles.kubernetes.objects.store import Body, Store
from tests.doubles.kubernetes.objects.wire import micro_stamp, stamp

#: Events kept; older ones go, as they do after an hour.
KEPT = 20_000


class EventLog:
    """Writes events; what is told again only raises a count.

    Args:
        store: where they are kept.
        enabled: False writes none (a benchmark may do without).
    """

    def __init__(self, store: Store, *, enabled: bool = True) -> None:
        self._store = store
        self._enabled = enabled
        self._numbers = itertools.count(time.time_ns())
        self._known: dict[tuple[str, ...], Body] = {}
        self._order: deque[tuple[tuple[str, ...] | None, Body]] = deque()

    def tell(
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
        """Tell something about an object.

        Args:
            resource: what the object is.
            body: the object.
            reason: one word.
            message: a sentence.
            component: who tells it.
            warning: it is a Warning, not Normal.
            container: the container of the pod that it is about.
            host: the node of the kubelet that tells it.
            action: what the scheduler was doing; such events are not counted.
        """
        if not self._enabled:
            return
        metadata = body["metadata"]
        key = (component, metadata["uid"], reason, message, container)
        known = None if action else self._known.get(key)
        if known is not None:
            known["count"] += 1
            known["lastTimestamp"] = stamp()
            self._store.save(EVENTS, known)
            return
        involved = {
            "kind": resource.kind,
            "apiVersion": resource.api_version,
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        involved["resourceVersion"] = metadata["resourceVersion"]
        if resource.namespaced:
            involved["namespace"] = metadata["namespace"]
        if container:
            involved["fieldPath"] = f"spec.containers{{{container}}}"
        event: dict[str, Any] = {
            "metadata": {
                "name": f"{metadata['name']}.{next(self._numbers):x}",
                "namespace": metadata.get("namespace", "default"),
            },
            "involvedObject": involved,
            "reason": reason,
            "message": message,
            "type": "Warning" if warning else "Normal",
            "reportingComponent": component,
            "reportingInstance": host,
        }
        if action:
            event |= {
                "action": action,
                "eventTime": micro_stamp(),
                "firstTimestamp": None,
                "lastTimestamp": None,
                "source": {},
            }
        else:
            now = stamp()
            source = {"component": component, "host": host} if host else {"component": component}
            event |= {
                "count": 1,
                "eventTime": None,
                "firstTimestamp": now,
                "lastTimestamp": now,
                "source": source,
            }
            self._known[key] = event
        self._store.add(EVENTS, event)
        self._order.append((None if action else key, event))
        if len(self._order) > KEPT:
            old, gone = self._order.popleft()
            if old is not None:
                self._known.pop(old, None)
            self._store.remove(EVENTS, gone)

    def pod(
        self,
        pod: Body,
        reason: str,
        message: str,
        *,
        host: str,
        container: str = "",
        warning: bool = False,
    ) -> None:
        """What a kubelet tells of a pod."""
        self.tell(
            PODS,
            pod,
            reason,
            message,
            component="kubelet",
            host=host,
            container=container,
            warning=warning,
        )
