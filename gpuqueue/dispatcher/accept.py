"""Accept one message: read it, choose a class, keep the job in its line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from gpuqueue.classes.choose import Room, choose, larger, resolve
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.dispatcher.job_states import JobStates
from gpuqueue.dispatcher.shown import ShownClasses
from gpuqueue.dispatcher.slots import Slots
from gpuqueue.errors import (
    InvalidJob,
    MalformedMessage,
    StateDamaged,
    StateUnavailable,
    UntrustedMessage,
)
from gpuqueue.glue.messages.bodies import DispatcherBodies
from gpuqueue.glue.messages.message import encode, outline
from gpuqueue.glue.messages.parse import identify, parse
from gpuqueue.glue.messages.submission import Identity, Submission
from gpuqueue.launchers.base import Launcher
from gpuqueue.model.escalation import NOWHERE, MemoryPlace
from gpuqueue.model.job import Job
from gpuqueue.model.names import CHORDS, EXCLUSIVE, REFUSED, SHARED, UNLOCK
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.states import QUEUED
from gpuqueue.model.task_memory import asked_and_used
from gpuqueue.model.text import LONGEST_ERROR, fitting
from gpuqueue.store import revocations, wakeups
from gpuqueue.store.cancels import REVOKED_FOR
from gpuqueue.store.client import Redis, RedisError, ResponseError
from gpuqueue.store.line import Line
from gpuqueue.store.passing import forbidden, passes
from gpuqueue.store.reader import Reader
from gpuqueue.store.run_times import recent_run_time
from gpuqueue.store.scripts import UNSTORABLE

logger = logging.getLogger(__name__)


class Accepted(NamedTuple):
    """What became of a message, and the class of its job: ``accepted``, ``known``, ``cancelled``,
    ``refused``; or ``ending``: its id was sent again, and the job with that id is about to end.
    """

    outcome: str
    gpu_class: str


@dataclass(frozen=True)
class Accept:
    """Accepts messages. Thread-safe; accepting a message twice makes one job."""

    client: Redis
    line: Line
    reader: Reader
    classes: Mapping[str, GpuClass]
    """Those that queues lead to."""
    bodies: DispatcherBodies
    launcher: Launcher
    slots: Slots
    states: JobStates
    finisher: Finisher
    chords: GpuClass
    """The class of unlocks."""
    shown: ShownClasses
    limit_of: Callable[[str, str | None], float | None]
    """Returns the hard limit that a task declares in an image: see :class:`Application`."""

    def __call__(
        self,
        packed: dict[str, Any],
        problem: InvalidJob | None = None,
        before_start: Callable[[str], object] = lambda gpu_class: None,
    ) -> Accepted:
        """Accept a message.

        Args:
            packed: the message.
            problem: why its content cannot be read, and is missing here: it is refused.
            before_start: called with the class once the job is kept, before any attempt starts.

        Raises:
            MalformedMessage: it has no task id.
            StateUnavailable: the job is not, or perhaps not, kept, and a later try can succeed.
            StateDamaged: the job is not kept, since a key of its class must be repaired.
            RedisError: the same, and the message may be the cause.
        """
        identity = identify(packed)
        try:
            try:
                return self._accept(packed, identity, problem, before_start)
            except UNSTORABLE as exc:
                words = f"the message cannot be kept: {exc}; send Celery's own headers"
                return self._refuse(packed, identity, MalformedMessage(words))
        except RedisError as exc:
            if _is_of_key(exc):
                raise StateDamaged(
                    f"a key of the class, gpuqueue:*:{{CLASS}}:*, has a wrong type: {exc};"
                    " RENAME it, and its messages are accepted"
                ) from exc
            if isinstance(exc, ResponseError) and not (passes(exc) or forbidden(exc)):
                raise
            raise StateUnavailable(f"the queue's state cannot be written: {exc}") from exc

    def _accept(
        self,
        packed: dict[str, Any],
        identity: Identity,
        problem: InvalidJob | None,
        before_start: Callable[[str], object],
    ) -> Accepted:
        try:
            # 1. Read.
            submission = parse(packed, identity, self.bodies)
            stored = encode(packed)
            # 2. Choose.
            if self._is_unlock(submission):
                gpu_class, job = self.chords, self._unlock(submission)
            else:
                gpu_class, isolation, before = self._choose(submission)
                job = submission.job(gpu_class, isolation)
                self.launcher.check_job(job.record(), gpu_class)
                if submission.request.escalate:
                    next_one = None if before else self._larger(submission, gpu_class, isolation)
                    job = replace(job, larger=next_one, escalated=before)
        except InvalidJob as exc:
            unread = problem if problem and not isinstance(exc, UntrustedMessage) else exc
            return self._refuse(packed, identity, unread)
        except RedisError:
            raise
        except Exception as exc:
            logger.exception("unreadable message", extra={"action": "message_unread"})
            words = f"headers cannot be read: {type(exc).__name__}: {exc}; send Celery's own"
            return self._refuse(packed, identity, MalformedMessage(words))
        # 3. Keep it in line.
        return self.take_in(packed, stored, submission, job, gpu_class, before_start)

    def _is_unlock(self, submission: Submission) -> bool:
        """Whether a message waits for the header of a chord, for which it needs no GPU. One that an
        older dispatcher has accepted stays in the class that it has there.
        """
        identity = submission.identity
        if identity.task != UNLOCK:
            return False
        known = self.reader.find(identity.id, [*self.classes, CHORDS])
        same = known is not None and (
            (known.get("retries", 0), known.get("nesting", 0))
            == (identity.retries, identity.nesting)
        )
        return not (known and same and known["gpu_class"] != CHORDS)

    def _unlock(self, submission: Submission) -> Job:
        """Return the job of an unlock. It runs where the body of its chord would, without a GPU;
        what the body asks for is no condition for it. Raises :class:`InvalidJob`.
        """
        try:
            of_body: GpuClass | None = resolve(self.classes, submission.queue, submission.request)[
                0
            ][0]
        except InvalidJob:  # the body itself will be refused, where its caller sees it
            of_body = None
        self.shown.use()
        job = submission.job(self.chords, SHARED)
        job = replace(
            job,
            image=job.image or (of_body.image if of_body else None),
            reuse=0,
            warm=self.chords.warm_seconds,
            needs_app=True,  # if it fails, the body must be told
        )
        self.launcher.check_job(job.record(), of_body or self.chords)
        return job

    def _choose(self, submission: Submission) -> tuple[GpuClass, str, str | None]:
        """Return class and isolation of a job, and from where it came there, out of memory."""
        queue, request = submission.queue, submission.request
        in_pods = not self.line.site.host
        fitting, isolation = resolve(
            self.classes, queue, request, submission.time_limit, in_pods=in_pods
        )
        if len(fitting) == 1 and not request.escalate:
            return fitting[0], isolation, None
        names = [each.name for each in fitting]
        known = self.reader.find(
            submission.identity.id, self.classes if request.escalate else names
        )
        # A redelivery or a retry stays in the class of its job, also in the larger one.
        if known and (
            _has_escalated(known, submission.identity)
            if known.get("escalated")
            else len(fitting) > 1 and known["gpu_class"] in names
        ):
            own = self.classes[known["gpu_class"]]
            return own, known["isolation"], known.get("escalated")
        if len(fitting) == 1:
            return fitting[0], isolation, None
        wanted = queue.isolation or request.kind
        chosen = choose(
            fitting, wanted, partial(self._room, submission), partial(recent_run_time, self.client)
        )
        return chosen, wanted or chosen.default_isolation, None

    def _room(self, submission: Submission, name: str, isolation: str) -> Room:
        """Return how soon a job would start in a class; one with a damaged key is held."""
        gpu_class = self.classes[name]
        try:
            return self.line.room(gpu_class, submission.job(gpu_class, isolation).record())
        except ResponseError as exc:
            if not _is_of_key(exc):
                raise
            return Room(starts=False, held=True, waiting=0, slots=gpu_class.slots(isolation))

    def _larger(self, submission: Submission, gpu_class: GpuClass, isolation: str) -> str:
        """Return where a job goes that runs out of GPU memory, as its record has it."""
        asked = (submission.request, submission.time_limit)
        in_pods = not self.line.site.host
        for place in larger(self.classes, gpu_class, isolation, *asked, in_pods=in_pods):
            try:
                self.launcher.check_job(submission.job(*place).record(), place[0])
            except InvalidJob:
                continue
            return MemoryPlace(place[0].name, place[1]).text()
        return NOWHERE

    def take_in(
        self,
        packed: dict[str, Any],
        stored: str,
        submission: Submission,
        job: Job,
        gpu_class: GpuClass,
        before_start: Callable[[str], object],
        counted: Mapping[str, Any] | None = None,
    ) -> Accepted:
        """Keep a job in its line. ``counted``: fields of the record of one that comes from another
        class. For ``before_start`` see :meth:`__call__`.
        """
        record: Any = {**job.record(), **(counted or {})}
        planned = submission.planned_limit(gpu_class, self.limit_of(job.task, job.image))
        if planned is not None:
            record["planned_limit"] = planned
        stamps = submission.stamps
        if stamps and revocations.stamps_revoked(self.client, dict(stamps), REVOKED_FOR):
            record["reason"] = EndReason.CANCELLED
        taken = self.line.take_in(gpu_class, record, stored, job.again)
        delivery = record["delivery"]
        if taken.outcome == "refused":
            logger.warning(
                "%s refused: its tenant %r has max_queued jobs in %s",
                delivery,
                job.tenant or "",
                job.gpu_class,
                extra={"action": "refused"},
            )
            self.finisher.submit(job.gpu_class, delivery)
            return Accepted("refused", job.gpu_class)
        if taken.outcome == "finishing":
            self.finisher.submit(job.gpu_class, delivery)
            return Accepted("cancelled", job.gpu_class)
        if taken.outcome != "accepted":
            return self._known(job.gpu_class, delivery, taken.outcome, "accepted")
        logger.info(
            "%s accepted for %s %s",
            delivery,
            job.gpu_class,
            job.isolation,
            extra={"action": "accepted"},
        )
        if taken.memory and job.memory:
            logger.warning(
                "task %s of tenant %r %s (told once; nothing changes)",
                job.task,
                job.tenant or "",
                asked_and_used(job.memory, *taken.memory),
                extra={"action": "memory"},
            )
        starts = any(each["delivery"] == delivery for each in taken.granted)
        if taken.granted:
            before_start(job.gpu_class)
        self.slots.launch(gpu_class, taken.granted)
        # A retry in line shows RETRY, as in plain Celery. A job that starts shows DISPATCHED.
        if not (starts or job.retries):
            self.states.store(record, QUEUED, packed)
        if taken.sooner and not starts:
            wakeups.wake(self.client, job.gpu_class)
        return Accepted("accepted", job.gpu_class)

    def _refuse(self, packed: dict[str, Any], identity: Identity, exc: InvalidJob) -> Accepted:
        trusted = not isinstance(exc, UntrustedMessage)
        if not trusted and self.reader.find(identity.id, self.reader.classes()):
            # The id may be forged: the result of a known job must not change.
            logger.warning(
                "untrusted message with the id of another job, discarded: %s",
                identity.id,
                extra={"action": "forged"},
            )
            return Accepted("known", REFUSED)
        job = identity.refused(REFUSED, EXCLUSIVE, trusted=trusted)
        record = job.record()
        record["reason"] = EndReason.REJECTED
        record["error"] = fitting(str(exc), LONGEST_ERROR)
        record["error_type"] = type(exc).__name__
        try:
            stored = encode(packed)
        except MalformedMessage:
            stored = encode(outline(packed))
        outcome = self.line.accept(REFUSED, record, stored, job.again)
        delivery = record["delivery"]
        if outcome != "finishing":
            return self._known(REFUSED, delivery, outcome, "refused")
        logger.warning("%s refused: %s", delivery, record["error"], extra={"action": "refused"})
        self.finisher.submit(REFUSED, delivery)
        return Accepted("refused", REFUSED)

    def _known(self, gpu_class: str, delivery: str, outcome: str, before: str) -> Accepted:
        if outcome == "ending":
            return Accepted(outcome, gpu_class)
        if outcome == "busy":
            logger.warning(
                "%s dropped: its id was sent again before the job with that id has ended",
                delivery,
                extra={"action": "sent_again"},
            )
        else:
            logger.info("%s dropped: it was %s before", delivery, before, extra={"action": "known"})
        return Accepted("known", gpu_class)


def _has_escalated(known: Record, identity: Identity) -> bool:
    """Whether a message belongs to a job that runs, or has run, in a larger place; a task id that
    is sent again after its job has ended begins where its queue says.
    """
    again = identity.retries > 0 or identity.nesting > 0
    return again or known["state"] != "ended" or known.get("tag", "") == identity.tag


def _is_of_key(exc: RedisError) -> bool:
    """Whether a key has another type than a script needs. Redis 6.2 and newer ones word the error
    within a script differently.
    """
    return isinstance(exc, ResponseError) and "WRONGTYPE Operation against a key" in str(exc)
