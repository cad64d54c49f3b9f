"""Record a launcher's observations: in Redis, in Celery's result backend, and as events."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from celery import states

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.job_states import JobStates
from gpuqueue.errors import StaleAttempt
from gpuqueue.glue.results.events import Event, Sender
from gpuqueue.model.attempt import (
    Attempt,
    LiveAttempt,
    Observation,
    RunningAttempt,
    is_same_instance,
)
from gpuqueue.model.ends import End
from gpuqueue.model.states import JobState
from gpuqueue.store import gone, wakeups
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.client import Redis
from gpuqueue.store.clock import redis_time
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs
from gpuqueue.store.reader import Reader

logger = logging.getLogger(__name__)


@dataclass
class KeptObservations:
    """See :class:`gpuqueue.launchers.base.Observations`. Thread-safe."""

    client: Redis
    line: Line
    reader: Reader
    logs: Logs
    states: JobStates
    events: Sender

    def now(self) -> float:
        """Return the time of Redis."""
        return redis_time(self.client)

    def observed(self, observations: list[Observation]) -> None:
        """Record what attempts wait for, in one round trip."""
        self.line.observed(observations)

    def confirmed_gone(self) -> Mapping[tuple[str, str], float]:
        """Return the nodes that operators have confirmed gone: (class, node) → when."""
        return gone.of(self.client, self.reader.classes())

    def with_slot(self, running: list[RunningAttempt]) -> list[RunningAttempt]:
        """Return those that hold a slot, or whose instance holds that of a later attempt."""
        slots = self.reader.have_slots([self.latest(each) for each in running])
        return [each for each, has in zip(running, slots, strict=True) if has]

    def make_room(self, pods: int) -> None:
        """End pods without a job, of all classes: they may share a GPU."""
        told = self.line.send_away(self.reader.classes(), pods)
        if told:
            logger.info(
                "%d pods without a job end: %d others find no room",
                told,
                pods,
                extra={"action": "sent_away"},
            )

    def set_nodes(
        self,
        gpu_class: GpuClass,
        nodes: Mapping[str, Mapping[str, int]] | None,
        more: int,
        owner: str,
    ) -> None:
        """Make these nodes of a cluster the domains of a class, and ``more`` that an autoscaler may
        add. Jobs that may start by that start soon. Raises :class:`ServedElsewhere`.
        """
        if self.line.set_nodes(gpu_class, nodes, more, owner):
            wakeups.wake(self.client, gpu_class.name)

    def give_up(self, attempt: Attempt, end: End) -> bool:
        """Record why an attempt is given up, before it is stopped."""
        return self.line.give_up(attempt, end)

    def has_begun(self, attempt: Attempt) -> bool:
        """Return whether the attempt is current and was claimed: its code may have run."""
        known = self.reader.record(attempt.gpu_class, attempt.delivery)
        if not known or known.get("attempt") != attempt.number:
            return False
        if attempt.token and known.get("token", attempt.token) != attempt.token:
            return False
        return known.get("state") in (JobState.RUNNING, JobState.REPORTING)

    def begun(self, live: LiveAttempt, worker: str) -> None:
        """Claim a container job's attempt for its pod, and store STARTED. May be repeated."""
        running = live.running
        executor = ExecutorAttempt(self.client, running.attempt, live.record["token"])
        try:
            claimed, stored = executor.claim(running.instance, worker)
        except StaleAttempt as exc:
            logger.warning(
                "%s: runs without a claim: %s",
                running.attempt.delivery,
                exc,
                extra={"action": "begun_stale"},
            )
            return
        self.states.store(claimed, states.STARTED, stored)
        self.events(Event(claimed["gpu_class"], "task-started", claimed["id"]))

    def latest(self, running: RunningAttempt) -> Attempt:
        """Return the attempt that an instance ran last, by the record of its first."""
        attempt = running.attempt
        first = self.reader.record(attempt.gpu_class, attempt.delivery)
        if not first or first.get("attempt") != attempt.number:
            return attempt
        if not is_same_instance(first.get("instance", ""), running.instance):
            return attempt
        return Attempt.parse(attempt.gpu_class, first.get("warm_last", "")) or attempt

    def wants_log(self, attempt: Attempt) -> bool:
        """Return whether the job is known and no log of the attempt is stored yet.

        A stray attempt's log is not wanted: the attempt that has its number now has the same key.
        """
        known = self.reader.record(attempt.gpu_class, attempt.delivery)
        if known is None or known.get("attempt", 0) < attempt.number:
            return False
        newest = known["attempt"] == attempt.number
        if newest and attempt.token and known.get("token", attempt.token) != attempt.token:
            return False
        return not self.logs.has(attempt)

    def keep_log(self, attempt: Attempt, text: str) -> None:
        """Store the end of an attempt's log for as long as the tombstone of its job."""
        self.logs.keep(attempt, text, self.line.keep)
