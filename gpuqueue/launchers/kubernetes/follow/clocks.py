"""The clocks of pods that do not run yet, or do not end. Records waits, gives up overdue attempts.

To give up an attempt: record the reason, delete the Job, wait for the pod. The slot is free once
the pod has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from gpuqueue.launchers.base import Observations
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.launchers.kubernetes.status.read_status import Phase, PodStatusSummary, overdue
from gpuqueue.model.attempt import LiveAttempt, Observation
from gpuqueue.model.reasons import WaitReason
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.steps import Steps
from gpuqueue.store.passing import passes

logger = logging.getLogger(__name__)
#: Observations recorded in one round trip.
BATCH = 500

#: What an observation records: phase, wait and detail.
_State = tuple[Phase, WaitReason | None, str]


@dataclass(frozen=True, slots=True)
class _Start:
    """A clock and its start by ``time.monotonic``, for states without a time in the API."""

    clock: str
    at: float


class PodClocks:
    """Checks pods between creation and run, and between deletion and end.

    Args:
        api: deletes Jobs.
        observations: records what attempts wait for.
        settings: the limits.
        start_timeout: seconds from the start of the container until the executor must have claimed
            the attempt.
        grace: seconds that a pod gets to end by itself.
        attempt_of: returns the attempt of a pod.
    """

    def __init__(
        self,
        api: Requests,
        observations: Observations,
        settings: ClusterSettings,
        start_timeout: float,
        grace: float,
        attempt_of: Callable[[Entry], LiveAttempt | None],
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
        self._attempt_of = attempt_of
        self._steps = Steps(passes)  # while Redis is away, no clock can be acted on
        self._lock = threading.Lock()
        self._changed: dict[str, Entry] = {}
        self._recorded: dict[str, _State] = {}
        self._starts: dict[str, _Start] = {}
        self._given_up: set[str] = set()
        self._gone: set[str] | None = None  # pods that have ended during a check; None: no check

    def changed(self, entry: Entry) -> None:
        """Take the new state of a pod. The next check records it, unless it changes before."""
        with self._lock:
            self._changed[entry.pod.metadata.uid] = entry

    def gone(self, uid: str) -> None:
        """Forget a pod that has ended."""
        with self._lock:
            self._forget(uid)
            if self._gone is not None:
                self._gone.add(uid)

    def _forget(self, uid: str) -> None:
        self._changed.pop(uid, None)
        self._recorded.pop(uid, None)
        self._starts.pop(uid, None)
        self._given_up.discard(uid)

    def check(self, pending: Iterable[Entry], now: float) -> None:
        """Record new states, and give up attempts whose clock ran out. ``now`` in Unix seconds."""
        with self._lock:
            changed, self._changed = self._changed, {}
            self._gone = set()
        try:
            try:
                self._record(changed.values())
            except Exception:
                with self._lock:
                    self._changed = changed | self._changed
                raise
            self._check_all(pending, now)
        finally:
            with self._lock:
                for uid in self._gone:  # what the check has stored of them meanwhile
                    self._forget(uid)
                self._gone = None

    def _check_all(self, pending: Iterable[Entry], now: float) -> None:
        entries = list(pending)
        without_room = sum(each.status.wait == WaitReason.UNSCHEDULABLE for each in entries)
        if without_room:
            make_room = partial(self._observations.make_room, without_room)
            self._steps.run("make room", make_room, None)
        for entry in entries:
            check = partial(self._check, entry, now)
            if not self._steps.run("clock", check, True, job=entry.pod.metadata.name):
                return  # the server is unreachable: the other deletions would fail too

    def limit(self, status: PodStatusSummary) -> float:
        """Return how long a state may last, in seconds."""
        return 0.0 if status.at_once else self._limits[status.clock or "terminating"]

    def _record(self, entries: Iterable[Entry]) -> None:
        batch: list[tuple[str, _State, Observation]] = []
        for entry in entries:
            name = entry.pod.metadata.name
            live = self._steps.run("pod", partial(self._attempt_of, entry), None, job=name)
            status, uid = entry.status, entry.pod.metadata.uid
            state = (status.phase, status.wait, status.detail)
            if live is None or self._recorded.get(uid) == state:
                continue
            observation = Observation(
                live.running.attempt,
                status.wait,
                status.detail,
                name,
                status.node,
                self._start_timeout if status.phase == Phase.RUNNING else None,
            )
            batch.append((uid, state, observation))
        for begin in range(0, len(batch), BATCH):
            part = batch[begin : begin + BATCH]
            self._observations.observed([observation for _, _, observation in part])
            self._recorded.update({uid: state for uid, state, _ in part})

    def _check(self, entry: Entry, now: float) -> bool:
        return not self._overdue(entry, now) or self._time_out(entry)

    def _overdue(self, entry: Entry, now: float) -> bool:
        status, uid = entry.status, entry.pod.metadata.uid
        if status.clock is None:
            return False
        if status.since is not None:
            return now - status.since >= self.limit(status)
        start = self._starts.get(uid)
        if start is None or start.clock != status.clock:
            start = self._starts[uid] = _Start(status.clock, time.monotonic())
        return time.monotonic() - start.at >= self.limit(status)

    def _time_out(self, entry: Entry) -> bool:
        """Act on a clock that ran out; return False if the API rejects the deletion for now."""
        live, status, uid = self._attempt_of(entry), entry.status, entry.pod.metadata.uid
        if live is None or uid in self._given_up:
            return True
        attempt = live.running.attempt
        if status.verdict is None:
            self._unconfirmed(entry, live)
            self._given_up.add(uid)
            return True
        end = overdue(status, self.limit(status))
        name = attempt.delivery
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

    def _unconfirmed(self, entry: Entry, live: LiveAttempt) -> None:
        # Until its node confirms the end, the pod may still compute on the GPU.
        attempt, status = live.running.attempt, entry.status
        detail = (
            f"deletion requested, but node {status.node or 'unknown'} has not confirmed the end for"
            f" {self.limit(status):.0f} s"
        )
        logger.warning(
            "%s: %s; its slot stays taken",
            attempt.delivery,
            detail,
            extra={"action": "unconfirmed"},
        )
        observation = Observation(
            attempt, WaitReason.UNCONFIRMED, detail, entry.pod.metadata.name, status.node
        )
        self._observations.observed([observation])
