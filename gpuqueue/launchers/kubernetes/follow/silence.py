"""Nodes that do not answer: which attempts they keep, and which an operator has confirmed gone.

Never here: the conclusion that a silent attempt has ended. Only its node, the control plane, or an
operator can say so.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gpuqueue.launchers.base import Observations, OnEnd
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.objects import seconds
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.launchers.kubernetes.status.last_state import LastState
from gpuqueue.launchers.kubernetes.status.read_status import Phase, PodStatusSummary
from gpuqueue.model.attempt import LiveAttempt, RunningAttempt
from gpuqueue.model.ends import End
from gpuqueue.model.place import PlaceKind
from gpuqueue.model.reasons import EndReason

logger = logging.getLogger(__name__)
#: Seconds between two looks at which silent attempts hold a slot, and at the words of operators.
LOOKS_EVERY = 2.0
#: Seconds on a node after which an operator may have confirmed that the node is gone, although no
#: pod shows yet that it is silent.
SETTLED = 10.0


@dataclass(frozen=True, slots=True)
class Silence:
    """Which nodes do not answer at ``now``, in Unix seconds by the clock of the API server.

    ``since``: node → since when, as its controller has marked a pod of it. ``limit``: seconds that
    a node may take to accept a pod. ``ahead``: seconds by which that clock is ahead of that of
    Redis.
    """

    since: Mapping[str, float] = field(default_factory=dict)
    limit: float = 60.0
    now: float = 0.0
    ahead: float = 0.0

    def detail(self, entry: Entry) -> str:
        """Return what is known of the silent node of a pod; empty if the node is not silent."""
        status = entry.status
        if status.end is not None or not status.node:
            return ""
        since = self.since.get(status.node, status.silent)
        if since is not None:
            at = datetime.fromtimestamp(since, UTC)
            return f"node {status.node} has not answered since {at:%Y-%m-%dT%H:%M:%SZ}"
        if self.tells(status) and self.now - (status.since or self.now) >= self.limit:
            return f"node {status.node} has not accepted its pod within {self.limit:g} s"
        return ""

    @staticmethod
    def tells(status: PodStatusSummary) -> bool:
        """Whether only the silence of its node can end a wait."""
        return status.clock == "unanswered"


@dataclass
class SilentAttempts:
    """The attempts of silent nodes. For one thread, but ``end_of``, ``gone`` and ``count``.

    Args:
        api: deletes Jobs.
        observations: knows which attempts hold slots, and what operators have confirmed.
        on_end: called with the end of an attempt that is confirmed gone.
        attempt_of: returns the attempt of a pod.
        is_unconfirmed: whether a pod has not ended in time after its deletion.
    """

    api: Requests
    observations: Observations
    on_end: OnEnd
    attempt_of: Callable[[Entry], LiveAttempt | None]
    is_unconfirmed: Callable[[str], bool]
    count: Mapping[tuple[str, str], int] = field(default_factory=dict, init=False)
    """(class, node) → attempts that hold a slot there and may have ended without a word."""
    _gone: dict[str, End] = field(default_factory=dict, init=False)
    _looked: float = field(default=float("-inf"), init=False)

    def forget(self) -> None:
        """Begin again: another dispatcher has led meanwhile, or leads from now on."""
        self._gone.clear()
        self.count = {}
        self._looked = float("-inf")

    def gone(self, uid: str) -> None:
        """Forget a pod that was deleted."""
        self._gone.pop(uid, None)

    def end_of(self, entry: Entry) -> End | None:
        """Return the end of a pod on a node that is confirmed gone; None: it is not, or answers."""
        end = self._gone.get(entry.pod.metadata.uid)
        return end if end is not None and not _answers(entry) else None

    def check(self, entries: Iterable[Entry], silence: Silence) -> None:
        """Count the silent attempts, and end those on nodes that an operator has confirmed gone."""
        found = list(self._found(entries, silence))
        if not found:
            self.count = {}
            return
        if time.monotonic() - self._looked < LOOKS_EVERY:
            return
        confirmed = self.observations.confirmed_gone()
        silent: dict[str, str] = {}  # instance → its node
        running: list[RunningAttempt] = []
        for entry, live, is_silent in found:
            place = live.running.attempt.gpu_class, entry.status.node
            if _bound(entry) - silence.ahead <= confirmed.get(place, float("-inf")):
                self._end(entry, live)
            elif is_silent:
                silent[live.running.instance] = entry.status.node
                running.append(live.running)
        held = self.observations.with_slot(running) if running else []
        self.count = Counter((each.attempt.gpu_class, silent[each.instance]) for each in held)
        self._looked = time.monotonic()

    def _found(
        self, entries: Iterable[Entry], silence: Silence
    ) -> Iterator[tuple[Entry, LiveAttempt, bool]]:
        """Yield the attempts that a word of an operator may concern, and whether each is silent."""
        for entry in entries:
            if entry.status.end or not entry.status.node or self.end_of(entry):
                continue
            silent = bool(silence.detail(entry)) or self.is_unconfirmed(entry.pod.metadata.uid)
            settled = not _answers(entry) and silence.now - _bound(entry) >= SETTLED
            live = self.attempt_of(entry) if silent or settled else None
            if live is not None:
                yield entry, live, silent

    def _end(self, entry: Entry, live: LiveAttempt) -> None:
        node, attempt = entry.status.node, live.running.attempt
        evidence = LastState.of(entry.pod, deleted=True).evidence()
        text = f"an operator has confirmed that its node {node} is gone"
        end = End(EndReason.NODE_LOST, text, node, evidence, PlaceKind.NODE)
        self._gone[entry.pod.metadata.uid] = end
        logger.warning("%s: %s", attempt.holder, text, extra={"action": "confirmed_gone"})
        self.on_end(live.running, end)
        try:
            self.api.delete_job(entry.job)  # for a node that comes back
        except ApiError as exc:
            logger.warning(
                "%s: its Job is not deleted: %s",
                attempt.holder,
                exc,
                extra={"action": "delete_later"},
            )


def _answers(entry: Entry) -> bool:
    """Whether the latest state of a pod is that of a node that answers."""
    return entry.status.phase == Phase.RUNNING and entry.status.silent is None


def _bound(entry: Entry) -> float:
    """Return when a pod was assigned to its node, in Unix seconds."""
    condition = entry.pod.status.condition("PodScheduled")
    at = seconds(condition.last_transition_time) if condition else None
    return at if at is not None else seconds(entry.pod.metadata.creation_timestamp) or 0.0
