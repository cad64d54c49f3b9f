"""The events of pods that do not start: read one by one, and seldom."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from gpuqueue.launchers.kubernetes.api.answers import Event
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Forbidden
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry

logger = logging.getLogger(__name__)
#: Shortest time between two reads of all pods, in seconds.
READ_EVERY = 0.5
#: Shortest time between two reads of one pod, in seconds.
READ_POD_EVERY = 10.0
#: Seconds that most nodes take to prepare a pod: until then its events tell nothing.
PREPARING = 5.0


class PodEvents:
    """Reads the events of pods, within a budget of requests. For one thread, but ``forget``.

    Args:
        api: the cluster and namespace.
        grace: seconds that a pod gets for a problem; they are read more often than that.
    """

    def __init__(self, api: Requests, grace: float) -> None:
        self._api = api
        self._every = min(READ_POD_EVERY, max(0.5, grace / 3))
        self.after = min(PREPARING, grace / 3)
        """Seconds on its node after which the events of a pod are worth a request."""
        self._known: dict[str, tuple[float, Sequence[Event]]] = {}
        self._new: set[str] = set()
        self._next = 0.0

    def of(self, entry: Entry) -> Sequence[Event] | None:
        """Return the events of a pod, the oldest first; None: they are not known (yet)."""
        uid, now = entry.pod.metadata.uid, time.monotonic()
        at, known = self._known.get(uid, (float("-inf"), None))
        self._new.discard(uid)
        # While those that were read rest, others have their turn.
        rest = max(self._every, READ_EVERY * (len(self._known) + 1))
        if now - at < rest or now < self._next:
            return known
        self._next = now + READ_EVERY
        try:
            known = self._api.pod_events(entry.pod.metadata.name)
        except Forbidden:  # without the right, the status of the pod must do
            known = ()
        except ApiError as exc:
            logger.info(
                "%s: events not read: %s",
                entry.pod.metadata.name,
                exc,
                extra={"action": "events_unavailable"},
            )
            return known
        self._known[uid] = now, known
        self._new.add(uid)
        return known

    def is_new(self, uid: str) -> bool:
        """Whether the last call for a pod has read its events."""
        return uid in self._new

    def forget(self, uid: str) -> None:
        """Forget a pod that is gone."""
        self._known.pop(uid, None)
        self._new.discard(uid)
