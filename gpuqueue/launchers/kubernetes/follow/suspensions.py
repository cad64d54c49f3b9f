"""Attempts whose Job or pod another controller holds back: they wait without a clock. One that ran
was preempted.

Never here: a change of ``suspend``. It belongs to the controller that has set it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from gpuqueue.launchers.base import Observations, StopRefused
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.objects import Job, Pod
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.deletions import Deletions
from gpuqueue.launchers.kubernetes.follow.pod_table import Entry
from gpuqueue.launchers.kubernetes.status.suspended import held_by, manager, was_suspended
from gpuqueue.model.attempt import LiveAttempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason, WaitReason

logger = logging.getLogger(__name__)
T = TypeVar("T")
#: Seconds between two extensions of the time that an attempt has to be claimed, at most.
EXTEND_EVERY = 30.0
#: Seconds for which the Job of a deleted pod is asked for, and between two tries.
ASK_FOR, ASK_EVERY = 60.0, 1.0


class Suspensions:
    """Reads what holds attempts back. Thread-safe.

    Args:
        api: reads and deletes Jobs.
        observations: record the waits.
        claim_within: seconds that an attempt has to be claimed once it is held back no longer.
        attempt_of: returns the attempt of a pod.
    """

    def __init__(
        self,
        api: Requests,
        observations: Observations,
        claim_within: float,
        attempt_of: Callable[[Entry], LiveAttempt | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._deletions = Deletions(api)
        self._observations = observations
        self._claim_within = claim_within
        self._attempt_of = attempt_of
        self._clock = clock
        self._closed = threading.Event()
        self._extended_at = float("-inf")
        self._gated_until: dict[str, float] = {}

    def of_job(self, job: Job, live: LiveAttempt) -> tuple[bool, End | None]:
        """Return whether a Job without a pod is held back, and the end of its attempt if that ran
        before.

        Raises ApiError.
        """
        detail = held_by(job)
        if not detail:
            return False, None
        attempt = live.running.attempt
        if job.spec.suspend and self._observations.has_begun(attempt):
            # No other pod may come when it is resumed.
            with suppress(StopRefused):
                self._deletions.delete(job.metadata.name, job.metadata.uid)
            return True, _preempted(job, live)
        observation = Observation(
            attempt, WaitReason.SUSPENDED, detail, claim_within=self._claim_within
        )
        self._observations.observed([observation])
        return True, None

    def end_after(self, entry: Entry, live: LiveAttempt, end: End) -> End | None:
        """Return the end of an attempt whose pod was deleted. None: it waits for another pod.

        May take a while. ``end``: as its pod states it.
        """
        name = entry.job
        job = self.patiently(name, lambda: self._api.get_job(name))
        if job is None or not was_suspended(job, entry.pod):
            return end
        if self._ran(live, end):
            uid = job.metadata.uid
            self.patiently(name, lambda: self._api.delete_job(name, uid))
            return replace(_preempted(job, live), evidence=end.evidence)
        logger.info(
            "%s: its Job was suspended before it ran",
            live.running.attempt.holder,
            extra={"action": "suspended"},
        )
        return None

    def end_of_pod(self, job: Job, pod: Pod, live: LiveAttempt, end: End) -> End | None:
        """Return what :meth:`end_after` does, for a Job that was just read. Raises ApiError."""
        if not was_suspended(job, pod):
            return end
        if not self._ran(live, end):
            return None
        with suppress(StopRefused):
            self._deletions.delete(job.metadata.name, job.metadata.uid)
        return replace(_preempted(job, live), evidence=end.evidence)

    def check(self, pending: Iterable[Entry], now: float) -> list[Entry]:
        """Return pods with a clock that starts after their gates. Extend the time of those that are
        gated. ``now`` in Unix seconds.
        """
        entries = list(pending)
        gated = [each for each in entries if each.status.wait is WaitReason.SUSPENDED]
        known = {each.pod.metadata.uid for each in entries}
        until = {uid: at for uid, at in self._gated_until.items() if uid in known}
        self._gated_until = until | {each.pod.metadata.uid: now for each in gated}
        if gated and self._clock() - self._extended_at >= min(EXTEND_EVERY, self._claim_within / 4):
            self._extended_at = self._clock()
            self._extend(gated)
        return [self._since_gates(each) for each in entries]

    def close(self) -> None:
        """Ask for no Job any more."""
        self._closed.set()

    def _ran(self, live: LiveAttempt, end: End) -> bool:
        started = "container_started" in end.evidence
        return started or self._observations.has_begun(live.running.attempt)

    def _since_gates(self, entry: Entry) -> Entry:
        # The API keeps the time at which the condition became False, when the pod was created.
        status, until = entry.status, self._gated_until.get(entry.pod.metadata.uid)
        if until is None or status.since is None or status.since >= until:
            return entry
        return replace(entry, status=replace(status, since=until))

    def _extend(self, gated: list[Entry]) -> None:
        found = [(each, live) for each in gated if (live := self._attempt_of(each)) is not None]
        self._observations.observed(
            [
                Observation(
                    live.running.attempt,
                    entry.status.wait,
                    entry.status.detail,
                    entry.pod.metadata.name,
                    claim_within=self._claim_within,
                )
                for entry, live in found
            ]
        )

    def patiently(self, name: str, ask: Callable[[], T]) -> T | None:
        """Return an answer about a Job; None if the API does not give one in time."""
        until = self._clock() + ASK_FOR
        while True:
            try:
                return ask()
            except ApiError as exc:
                # A right may be missing for seconds, too: that says nothing of the Job.
                if self._clock() >= until or self._closed.wait(ASK_EVERY):
                    logger.warning(
                        "%s: no answer on it: %s", name, exc, extra={"action": "job_unknown"}
                    )
                    return None


def _preempted(job: Job, live: LiveAttempt) -> End:
    by = manager(job)
    text = "preempted: its Job was suspended while it ran" + (f", by {by}" if by else "")
    logger.warning("%s: %s", live.running.attempt.holder, text, extra={"action": "suspended"})
    return End(EndReason.PREEMPTED, text)
