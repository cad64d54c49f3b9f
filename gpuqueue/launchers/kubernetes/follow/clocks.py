"""The clocks of attempts that do not run yet, or do not end: what they wait for is noted, and what
waits too long given up.

To give up is: keep the reason, delete the Job, wait for the pod. The slot is free when the pod says
that it has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gpuqueue.launchers.base import Observations
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.launchers.kubernetes.status.read_status import Phase, PodStatusSummary, overdue
from gpuqueue.model.attempt import LiveAttempt, Observation
from gpuqueue.model.reasons import WaitReason
from gpuqueue.settings.kubernetes import ClusterSettings

logger = logging.getLogger(__name__)
#: Attempts noted in one round trip.
AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class _Since:
    """Which clock runs, and since when by ``time.monotonic``: for states that the API gives no time
    for.
    """

    clock: str
    at: float


class Clocks:
    """Looks after pods between their creation and their run, and between their deletion and their
    end.

    Args:
        api: where Jobs are deleted.
        observations: where it is recorded what attempts wait for.
        settings: the limits.
        start_timeout: seconds from the container's start until its executor must have claimed the
            attempt.
        grace: seconds that a pod has to end by itself.
        known: the attempt of a pod.
    """

    def __init__(
        self,
        api: Requests,
        observations: Observations,
        settings: ClusterSettings,
        start_timeout: float,
        grace: float,
        known: Callable[[Entry], LiveAttempt | None],
    ) -> None:
        self._api = api
        self._observations = observations
        self._limits = {
            "unschedulable": settings.unschedulable_timeout,
            "image_pull": settings.image_pull_timeout,
            "image_error": settings.image_error_grace,
            "config_error": settings.config_error_grace,
            "terminating": settings.terminating_timeout + grace,
        }
        self._start_timeout = start_timeout
        self._known = known
        self._lock = threading.Lock()
        self._changed: dict[str, Entry] = {}
        self._noted: dict[str, tuple[Phase, WaitReason | None, str]] = {}
        self._since: dict[str, _Since] = {}
        self._given_up: set[str] = set()

    def changed(self, entry: Entry) -> None:
        """A pod has a new state; it is noted with the others at the next check, if it lasts that
        long.
        """
        with self._lock:
            self._changed[entry.pod.metadata.uid] = entry

    def gone(self, uid: str) -> None:
        """A pod has ended: nothing of it is of interest here any more."""
        with self._lock:
            self._changed.pop(uid, None)
            self._noted.pop(uid, None)
            self._since.pop(uid, None)
            self._given_up.discard(uid)

    def check(self, pending: Iterable[Entry], now: float) -> None:
        """Note what is new, and give up whose clock has run out. ``now`` in Unix seconds."""
        with self._lock:
            changed, self._changed = self._changed, {}
        try:
            self._note(changed.values())
        except Exception:
            with self._lock:
                self._changed = changed | self._changed
            raise
        for entry in pending:
            if self._overdue(entry, now) and not self._out_of_time(entry):
                return  # the server is away: the others would wait for it as well

    def limit(self, seen: PodStatusSummary) -> float:
        """How long a state may last, in seconds."""
        return 0.0 if seen.at_once else self._limits[seen.clock or "terminating"]

    def _note(self, entries: Iterable[Entry]) -> None:
        said: list[tuple[str, tuple[Phase, WaitReason | None, str], Observation]] = []
        for entry in entries:
            known, seen, uid = self._known(entry), entry.seen, entry.pod.metadata.uid
            state = (seen.phase, seen.wait, seen.detail)
            if known is None or self._noted.get(uid) == state:
                continue
            claim_within = self._start_timeout if seen.phase == Phase.RUNNING else None
            observed = Observation(
                known.running.attempt,
                seen.wait,
                seen.detail,
                entry.pod.metadata.name,
                seen.node,
                claim_within,
            )
            said.append((uid, state, observed))
        for begin in range(0, len(said), AT_ONCE):
            some = said[begin : begin + AT_ONCE]
            self._observations.observed([observed for _, _, observed in some])
            self._noted.update({uid: state for uid, state, _ in some})

    def _overdue(self, entry: Entry, now: float) -> bool:
        seen, uid = entry.seen, entry.pod.metadata.uid
        if seen.clock is None:
            return False
        if seen.since is not None:
            return now - seen.since >= self.limit(seen)
        since = self._since.get(uid)
        if since is None or since.clock != seen.clock:
            since = self._since[uid] = _Since(seen.clock, time.monotonic())
        return time.monotonic() - since.at >= self.limit(seen)

    def _out_of_time(self, entry: Entry) -> bool:
        """Give up an attempt; False when the API does not let us at present."""
        known, seen, uid = self._known(entry), entry.seen, entry.pod.metadata.uid
        if known is None or uid in self._given_up:
            return True
        attempt = known.running.attempt
        name = attempt.delivery
        if seen.verdict is None:
            # Whatever its node does not confirm may still compute on the GPU.
            detail = (
                f"told to end, and node {seen.node or 'unknown'} has not said for"
                f" {self.limit(seen):.0f} s that it has"
            )
            logger.warning(
                "%s: %s; its slot stays taken", name, detail, extra={"action": "unconfirmed"}
            )
            unconfirmed = Observation(
                attempt, WaitReason.UNCONFIRMED, detail, entry.pod.metadata.name, seen.node
            )
            self._observations.observed([unconfirmed])
            self._given_up.add(uid)
            return True
        end = overdue(seen, self.limit(seen))
        if self._observations.give_up(attempt, end.reason, end.error):
            logger.warning("%s: given up: %s", name, end.error, extra={"action": "given_up"})
            try:
                self._api.delete_job(entry.job)
            except ApiError as exc:
                logger.warning(
                    "%s: its Job is not deleted yet: %s",
                    name,
                    exc,
                    extra={"action": "delete_later"},
                )
                return False
        self._given_up.add(uid)
        return True
