"""Deletes Jobs that have ended, once their end is written: a while later, for people to look at.

Kubernetes does the same only much later: what no dispatcher has read must not go.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable
from typing import NamedTuple

from gpuqueue.launchers.base import Observations, StopRefused
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.objects import Job, Pod, seconds
from gpuqueue.launchers.kubernetes.api.requests import Requests
from gpuqueue.launchers.kubernetes.follow.deletions import Deletions
from gpuqueue.launchers.kubernetes.follow.pod_table import CONTROLLER_UID, Entry
from gpuqueue.model.attempt import LiveAttempt, RunningAttempt

logger = logging.getLogger(__name__)
#: Seconds between two sweeps, and Jobs that one deletes at most.
SWEEP_EVERY, MOST = 5.0, 100


class Ended(NamedTuple):
    """A Job that has ended. ``at`` in Unix seconds."""

    name: str
    uid: str
    running: RunningAttempt
    at: float


class EndedJobs:
    """Sweeps Jobs. One sweep at a time.

    Args:
        api: deletes Jobs.
        observations: tell which attempts still hold a slot.
        keep: seconds that a Job stays after its end.
    """

    def __init__(self, api: Requests, observations: Observations, keep: float) -> None:
        self._deletions = Deletions(api)
        self._observations = observations
        self._keep = keep
        self._next = 0.0
        self._one = threading.Lock()
        self._deleted: set[str] = set()  # Jobs whose pods are still there

    def is_due(self) -> bool:
        """Return whether a sweep is due, once for each."""
        due = time.monotonic() >= self._next and not self._one.locked()
        if due:
            self._next = time.monotonic() + SWEEP_EVERY
        return due

    def sweep(self, ended: Iterable[Ended], now: float) -> None:
        """Delete those whose time is over and whose slot is free: their end is written. ``now`` in
        Unix seconds.
        """
        found = [each for each in ended if now - each.at >= self._keep]
        with self._one:
            self._deleted &= {each.uid for each in found}
            due = [each for each in found if each.uid not in self._deleted]
            self._delete([each for each in due if not self._deletions.rests(each.name)][:MOST])

    def _delete(self, due: list[Ended]) -> None:
        if not due:
            return
        held = {each.instance for each in self._observations.with_slot([it.running for it in due])}
        for each in due:
            if each.running.instance not in held:
                try:
                    self._deletions.delete(each.name, each.uid)
                except StopRefused:
                    continue
                except ApiError as exc:  # the others would wait for the same server
                    logger.info("ended Jobs stay: %s", exc, extra={"action": "delete_later"})
                    return
                if each.uid:  # a finalizer may keep the pod for long
                    self._deleted.add(each.uid)
                logger.debug("%s: deleted after its end", each.name, extra={"action": "swept"})


def of_pods(
    found: Iterable[tuple[Entry, LiveAttempt | None]], busy: Collection[str]
) -> list[Ended]:
    """Return the Jobs of pods that have ended, but for the pods that are ``busy``."""
    return [
        Ended(
            entry.job,
            (entry.pod.metadata.labels or {}).get(CONTROLLER_UID, ""),
            live.running,
            _ended_at(entry.pod),
        )
        for entry, live in found
        if live is not None
        and entry.job
        and entry.status.end is not None
        and entry.pod.metadata.uid not in busy
    ]


def of_job(job: Job, live: LiveAttempt) -> Ended | None:
    """Return a Job that has ended without a pod; None: it has not ended."""
    ended = job.status.ended
    at = seconds(ended.last_transition_time) if ended else None
    if at is None:
        return None
    return Ended(job.metadata.name, job.metadata.uid, live.running, at)


def _ended_at(pod: Pod) -> float:
    """Return when a pod ended, or the latest time that it states."""
    containers = pod.status.container_statuses or ()
    times = [each.terminated.finished_at for each in containers if each.terminated]
    times += [each.last_transition_time for each in pod.status.conditions or ()]
    times += [pod.metadata.creation_timestamp]
    return max((at for text in times if (at := seconds(text)) is not None), default=0.0)
