"""Stores the end of a pod's log for its attempt, before the pod may go, and hands the whole over.

Never here: threads, and when a pod goes.
"""

from __future__ import annotations

from gpuqueue.launchers.base import Observations, WholeLogs
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow import logs
from gpuqueue.launchers.kubernetes.follow.log_source import HeldLog, HeldLogs, PodLog
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.model.attempt import LiveAttempt
from gpuqueue.model.warm_pod import GOES_ON

#: Seconds for which a log is asked for while errors pass.
ASK_FOR = 10.0


class PodLogs:
    """The logs of pods. Thread-safe.

    Args:
        api: reads them.
        observations: stores them.
        limit_bytes: what is stored of each.
        whole: takes whole logs; None: nothing does.
        owner: of the Jobs.
    """

    def __init__(
        self,
        api: Requests,
        observations: Observations,
        limit_bytes: int,
        whole: WholeLogs | None = None,
        owner: str = "",
    ) -> None:
        self._api = api
        self._observations = observations
        self._limit = limit_bytes
        self._whole = whole
        self._owner = owner
        self._early: dict[str, str] = {}
        self._held_logs = HeldLogs(api)
        self._held: dict[str, HeldLog] = {}
        self._due: set[str] = set()

    def due(self) -> set[str]:
        """Return the pods that have ended and whose log is still to be stored."""
        return set(self._due)

    def expect(self, entry: Entry) -> None:
        """Note that the log of an ended pod is to be stored."""
        self._due.add(entry.pod.metadata.uid)

    def done(self, entry: Entry) -> None:
        """Forget a pod whose log is stored, or cannot be."""
        self._due.discard(entry.pod.metadata.uid)
        self._early.pop(entry.pod.metadata.uid, None)
        self._held.pop(entry.pod.metadata.uid, None)

    def keep_last(self, entry: Entry, live: LiveAttempt) -> None:
        """Store the log of an ended pod."""
        try:
            try:
                self.keep(entry, live)
            finally:
                self.hand_over(entry, live)
        finally:
            self.done(entry)

    def hand_over(self, entry: Entry, live: LiveAttempt) -> None:
        """Have the whole logs of the attempts of an ended executor written to the sink."""
        if self._whole is None or not entry.status.node:
            return
        last, first = self._observations.latest(live.running), live.running.attempt
        held = self._held.get(entry.pod.metadata.uid)
        for attempt in [*(self._whole.before(last) if last != first else ()), last]:
            holder = "" if attempt == first else attempt.holder
            source = PodLog(self._api, entry.pod.metadata.name, self._owner, holder, held)
            self._whole.keep(attempt, source)

    def hold(self, entry: Entry) -> None:
        """Read the whole log of a pod that is about to be deleted."""
        if self._whole is None or not entry.status.node:
            return
        if (held := self._held_logs.read(entry.pod.metadata.name)) is not None:
            self._held[entry.pod.metadata.uid] = held

    def keep(self, entry: Entry, live: LiveAttempt, within: float = ASK_FOR) -> None:
        """Store the log of a pod whose executor has ended. Errors that pass are waited for, but no
        longer than ``within`` seconds.
        """
        if not entry.status.node:
            return
        attempt = self._observations.latest(live.running)
        if not self._observations.wants_log(attempt):
            return
        text = logs.tail(self._api, entry.pod.metadata.name, self._limit, within)
        text = text or self._early.get(entry.pod.metadata.uid, "")
        if attempt != live.running.attempt:  # the log of the pod is that of earlier ones, too
            _, begins, text = text.rpartition(f"{GOES_ON} {attempt.holder}")
            text = text.partition("\n")[2] if begins else ""
        if text:
            self._observations.keep_log(attempt, text)

    def read_early(self, entry: Entry, live: LiveAttempt) -> None:
        """Read the log of a pod that is about to be stopped, in case that it goes too soon."""
        if self._observations.wants_log(self._observations.latest(live.running)):
            text = logs.tail(self._api, entry.pod.metadata.name, self._limit)
            self._early[entry.pod.metadata.uid] = text
        self.hold(entry)
