"""The clocks of pods that do not run yet, or do not end. Records waits, gives up overdue attempts.

To give up an attempt: record the reason, delete the Job, wait for the pod. The slot is free once
the pod has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.launchers.base import Observations
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.deletions import Deletions
from gpuqueue.launchers.kubernetes.follow.node_starts import NodeStarts
from gpuqueue.launchers.kubernetes.follow.pod_events import PodEvents
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.launchers.kubernetes.follow.silence import Silence
from gpuqueue.launchers.kubernetes.status.pod_events import (
    says_why,
    scaling_seconds,
    with_problem,
    with_pull_error,
)
from gpuqueue.launchers.kubernetes.status.read_status import Phase, PodStatusSummary, overdue
from gpuqueue.launchers.kubernetes.status.refusals import without_own_fault
from gpuqueue.model.attempt import LiveAttempt, Observation
from gpuqueue.model.ends import REJECTION
from gpuqueue.model.reasons import WaitReason
from gpuqueue.model.unbound import is_unbound
from gpuqueue.settings.classes import of_class
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.steps import Steps
from gpuqueue.store.passing import passes

logger = logging.getLogger(__name__)
#: Seconds that a check gives up attempts: each deletion may wait for the API. The next check gives
#: up the others.
WITHIN = 5.0
#: Seconds that a pod waits at most for room on the only node on which it may run: its job had a
#: slot there, and other nodes may be idle.
PINNED = 60.0
#: Observations recorded in one round trip.
BATCH = 500

#: What an observation records: phase, wait and detail.
_State = tuple[Phase, WaitReason | None, str]


@dataclass(frozen=True, slots=True)
class _Start:
    """A clock and its start by ``time.monotonic``, for states without a time in the API."""

    clock: str
    at: float


def _limits(settings: ClusterSettings, start_timeout: float, grace: float) -> dict[str, float]:
    return {
        "unschedulable": settings.unschedulable_timeout,
        "sandbox": settings.image_pull_timeout,
        "sandbox_error": settings.image_error_grace,
        "image_pull": settings.image_pull_timeout,
        "image_error": settings.image_error_grace,
        "config_error": settings.config_error_grace,
        "terminating": settings.terminating_timeout + grace,
        "start": start_timeout,
        "claim": settings.claim_within(start_timeout),
    }


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
        classes: the classes, by name, which may have limits of their pods.
        is_gone: whether a node takes no pod of a class any more.
        starts: which nodes start pods of a class.
    """

    def __init__(
        self,
        api: Requests,
        observations: Observations,
        settings: ClusterSettings,
        start_timeout: float,
        grace: float,
        attempt_of: Callable[[Entry], LiveAttempt | None],
        classes: Mapping[str, GpuClass] = MappingProxyType({}),
        is_gone: Callable[[str, str], bool] = lambda gpu_class, node: False,
        starts: NodeStarts | None = None,
    ) -> None:
        self._deletions = Deletions(api)
        self._node_starts = starts or NodeStarts(classes)
        self._is_gone = is_gone
        self._observations = observations
        self._limits = _limits(settings, start_timeout, grace)
        self._limits_of = {
            name: _limits(of_class(settings, each), each.start_timeout or start_timeout, grace)
            for name, each in classes.items()
        }
        self._events = PodEvents(api, settings.config_error_grace)
        self._attempt_of = attempt_of
        self._steps = Steps(passes)  # while Redis is away, no clock can be acted on
        self._lock = threading.Lock()
        self._changed: dict[str, Entry] = {}
        self._recorded: dict[str, _State] = {}
        self._starts: dict[str, _Start] = {}
        self._given_up: dict[str, str | None] = {}  # pod → the clock that ran out
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
        self._given_up.pop(uid, None)
        self._events.forget(uid)

    def check(self, entries: Iterable[Entry], now: float, silence: Silence) -> None:
        """Record new states, and give up attempts whose clock ran out.

        Args:
            entries: at least the pods that neither run nor have ended.
            now: in Unix seconds, by the clock of the API server.
            silence: which nodes do not answer.
        """
        known = [entry for entry in entries if entry.status.end is None]
        with self._lock:
            changed, self._changed = self._changed, {}
            self._gone = set()
        try:
            try:
                of_node = {
                    each.pod.metadata.uid: each for each in known if self._differs(each, silence)
                }
                self._record((of_node | changed).values(), silence)
            except Exception:
                with self._lock:
                    self._changed = changed | self._changed
                raise
            self._check_all(known, now, silence)
        finally:
            with self._lock:
                for uid in self._gone:  # what the check has stored of them meanwhile
                    self._forget(uid)
                self._gone = None

    def _check_all(self, entries: list[Entry], now: float, silence: Silence) -> None:
        without_room = sum(each.status.wait == WaitReason.UNSCHEDULABLE for each in entries)
        if without_room:
            make_room = partial(self._observations.make_room, without_room)
            self._steps.run("make room", make_room, None)
        began = time.monotonic()
        for entry in entries:
            if time.monotonic() - began >= WITHIN:
                return
            check = partial(self._check, entry, now, silence)
            if not self._steps.run("clock", check, True, job=entry.pod.metadata.name):
                return  # the server is unreachable: the other deletions would fail too

    def limit(self, status: PodStatusSummary, gpu_class: str = "") -> float:
        """Return how long a state of a pod of this class may last, in seconds."""
        if status.at_once:
            return 0.0
        return self._limits_of.get(gpu_class, self._limits)[status.clock or "terminating"]

    def _limit(self, entry: Entry) -> float:
        live = self._attempt_of(entry)
        limit = self.limit(entry.status, live.running.attempt.gpu_class if live else "")
        is_pinned = live is not None and entry.status.clock == "unschedulable" and _domain(live)
        return min(limit, PINNED) if is_pinned else limit

    def is_unconfirmed(self, uid: str) -> bool:
        """Whether a pod has not ended in time after its deletion."""
        return self._given_up.get(uid) == "terminating"

    def silent(self) -> bool:
        """Whether a pod is recorded as one of a silent node."""
        with self._lock:
            return any(wait == WaitReason.NODE_SILENT for _, wait, _ in self._recorded.values())

    def _differs(self, entry: Entry, silence: Silence) -> bool:
        """Whether the node of a pod was silent when it was recorded and answers now, or not."""
        known = self._recorded.get(entry.pod.metadata.uid)
        if known is None or self.is_unconfirmed(entry.pod.metadata.uid):
            return False
        was, is_ = known[1] == WaitReason.NODE_SILENT, bool(silence.detail(entry))
        return was != is_

    def _record(self, entries: Iterable[Entry], silence: Silence) -> None:
        batch: list[tuple[str, _State, Observation]] = []
        for entry in entries:
            name = entry.pod.metadata.name
            live = self._steps.run("pod", partial(self._attempt_of, entry), None, job=name)
            status, uid = entry.status, entry.pod.metadata.uid
            if live is None or self.is_unconfirmed(uid):
                continue
            wait, detail = status.wait, silence.detail(entry)
            if detail:
                wait = WaitReason.NODE_SILENT
            elif wait == WaitReason.UNSCHEDULABLE and _kept_away(live):
                wait = WaitReason.NODE_SET_ASIDE
            state = (status.phase, wait, detail or status.detail)
            if self._recorded.get(uid) == state:
                continue
            limits = self._limits_of.get(live.running.attempt.gpu_class, self._limits)
            observation = Observation(
                live.running.attempt,
                wait,
                detail or status.detail,
                name,
                status.node,
                limits["start"] if status.phase == Phase.RUNNING else None,
            )
            batch.append((uid, state, observation))
        for begin in range(0, len(batch), BATCH):
            part = batch[begin : begin + BATCH]
            self._observations.observed([observation for _, _, observation in part])
            self._recorded.update({uid: state for uid, state, _ in part})

    def _check(self, entry: Entry, now: float, silence: Silence) -> bool:
        status = entry.status
        # What a silent node keeps waiting is no fault of its job.
        waits = status.phase == Phase.PREPARING
        if status.clock is None or (waits and silence.detail(entry)) or silence.tells(status):
            return True
        if self._given_up.get(entry.pod.metadata.uid) == status.clock:
            return True  # others need the requests
        found = self._with_events(entry, now)
        if found is not entry:
            self._record([found], silence)
        return not self._overdue(found, now, silence.ahead) or self._time_out(found)

    def _with_events(self, entry: Entry, now: float) -> Entry:
        """Return a pod that its node prepares for long with the words of its node."""
        status = entry.status
        if status.clock != "sandbox" or status.since is None:
            return entry
        events = self._events.of(entry) if now - status.since >= self._events.after else None
        return replace(entry, status=with_problem(status, events)) if events else entry

    def _is_scaling(self, entry: Entry, late: float, now: float) -> bool:
        """Whether an autoscaler has the time that a pod has waited for a node beyond its limit.

        Unread events tell nothing: the pod waits on.
        """
        events = self._events.of(entry)
        if events is None:
            return True
        total, scales = scaling_seconds(events, now)
        if scales:
            self._extend(entry)
        return scales or late < total

    def _extend(self, entry: Entry) -> None:
        # The deadline of the whole start stands still, too.
        live, uid = self._attempt_of(entry), entry.pod.metadata.uid
        detail = f"an autoscaler adds a node; {entry.status.detail}"
        state = (entry.status.phase, entry.status.wait, detail)
        if live is None or not self._events.is_new(uid):
            return
        limits = self._limits_of.get(live.running.attempt.gpu_class, self._limits)
        self._observations.observed(
            [
                Observation(
                    live.running.attempt,
                    entry.status.wait,
                    detail,
                    entry.pod.metadata.name,
                    claim_within=limits["claim"],
                )
            ]
        )
        self._recorded[uid] = state

    def _overdue(self, entry: Entry, now: float, ahead: float) -> bool:
        status, uid = entry.status, entry.pod.metadata.uid
        if status.clock is None:
            return False
        live = self._attempt_of(entry)
        if status.wait == WaitReason.UNSCHEDULABLE and live and _kept_away(live):
            # A node that it was kept away from may be tried by now, by a new pod.
            return now - ahead >= live.record["away_until"]
        pinned = _domain(live) if live and status.clock == "unschedulable" else ""
        if pinned and live and self._is_gone(live.running.attempt.gpu_class, pinned):
            return True
        if status.since is not None:
            late = now - status.since - self._limit(entry)
            if late >= 0 and status.clock == "unschedulable" and not pinned:
                return not self._is_scaling(entry, late, now)
            return late >= 0
        start = self._starts.get(uid)
        if start is None or start.clock != status.clock:
            start = self._starts[uid] = _Start(status.clock, time.monotonic())
        return time.monotonic() - start.at >= self._limit(entry)

    def _time_out(self, entry: Entry) -> bool:
        """Act on a clock that ran out; return False if the API rejects the deletion for now."""
        live, status, uid = self._attempt_of(entry), entry.status, entry.pod.metadata.uid
        if live is None or self._given_up.get(uid, "") == status.clock:
            return True
        if self._deletions.rests(entry.job):
            return True
        attempt = live.running.attempt
        if status.verdict is None:
            self._unconfirmed(entry, live)
            self._given_up[uid] = status.clock
            return True
        if status.clock == "image_error" and not says_why(status):
            events = self._events.of(entry)
            if events is None:
                return True  # the next check
            status = with_pull_error(status, events)
        end = overdue(without_own_fault(status, live.record), self._limit(entry))
        own = live.record.get("image") or ""
        end = self._node_starts.where_it_belongs(end, status.node, attempt.gpu_class, own)
        if status.phase == Phase.UNSCHEDULED and _kept_away(live):
            text = f"no node but those that are set aside has room for its pod: {status.detail}"
            end = replace(end, error=text, blames="")
        if status.phase == Phase.UNSCHEDULED and (node := _domain(live)):
            text = f"its pod finds no room on node {node}: {status.detail}"
            end = replace(end, error=text, avoid=node, blames=REJECTION)
        name = attempt.delivery
        if self._observations.give_up(attempt, end):
            logger.warning("%s: given up: %s", name, end.error, extra={"action": "given_up"})
            if not self._deletions.delete_or_tell(entry.job, name):
                return self._deletions.rests(entry.job)
        self._given_up[uid] = status.clock
        return True

    def _unconfirmed(self, entry: Entry, live: LiveAttempt) -> None:
        # Until its node confirms the end, the pod may still compute on the GPU.
        attempt, status = live.running.attempt, entry.status
        detail = (
            f"deletion requested, but node {status.node or 'unknown'} has not confirmed the end for"
            f" {self._limit(entry):.0f} s"
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


def _kept_away(live: LiveAttempt) -> bool:
    """Whether nodes are set aside that the pod of an attempt must not use."""
    return "away_until" in live.record


def _domain(live: LiveAttempt) -> str:
    """Return the only node on which the pod of an attempt may run; "" if there are others."""
    domain = live.record.get("domain", "")
    return "" if is_unbound(domain) else domain
