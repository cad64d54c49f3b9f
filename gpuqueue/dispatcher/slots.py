"""The dispatcher's cycle: accept a message, admit what can start, launch it, and hand a freed slot
on.

Each step is one script, may be repeated, and is repaired by the watcher when its process dies right
after it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from gpuqueue.classes.choose import choose, resolve
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.cancel import stamps_of
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.dispatcher.timer import Later
from gpuqueue.errors import InvalidJob, MalformedMessage, StateUnavailable, UntrustedMessage
from gpuqueue.glue.messages.bodies import DispatcherBodies
from gpuqueue.glue.messages.parse import UNSIGNED, bare_job, job_id, parse, request_of
from gpuqueue.glue.results.states import States
from gpuqueue.launchers.base import CannotLaunch, Launcher, LaunchLater
from gpuqueue.model.attempt import Attempt, Observation, RunningAttempt
from gpuqueue.model.ends import End
from gpuqueue.model.names import EXCLUSIVE
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.states import DISPATCHED, QUEUED
from gpuqueue.store import revocations, wakeups
from gpuqueue.store.client import Redis, RedisError
from gpuqueue.store.line import BATCH, REVOKED_FOR, Line
from gpuqueue.store.reader import Reader
from gpuqueue.telemetry import LAUNCHES

logger = logging.getLogger(__name__)
#: Jobs that no class can ever run are kept under this name until their refusal is delivered.
REFUSED = "refused"
#: Seconds until a launch that the cluster did not take is tried again: it doubles as long as that
#: goes on.
EARLIEST, LATEST = 0.5, 30.0


@dataclass
class Dispatcher:
    """What one dispatcher does with jobs; safe to call from any thread."""

    client: Redis
    line: Line
    reader: Reader
    classes: Mapping[str, GpuClass]
    states: States
    finisher: Finisher
    stale_after: float
    """Seconds after which a repair may have overtaken a step of ours: then its state is not ours to
    write.
    """
    threads: int = 8
    bodies: DispatcherBodies = UNSIGNED
    launcher: Launcher = field(init=False)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="gpuqueue-launch")
        self._later = Later("gpuqueue-launch-later")

    # -- accept ------------------------------------------------------------------------------------

    def accept(self, packed: dict[str, Any]) -> str:
        """Keep one delivery and start what can start. Answers ``accepted``, ``known``,
        ``cancelled`` or ``refused``.

        Raises :class:`MalformedMessage` for a message without an id, :class:`StateUnavailable` when
        nothing was kept, or maybe not: then the message must come again.
        """
        try:
            return self._accept(packed)
        except RedisError as exc:
            raise StateUnavailable(f"the queue's state cannot be written: {exc}") from exc

    def _accept(self, packed: dict[str, Any]) -> str:
        job_id(packed)
        now = self.line.clock()
        try:
            gpu_class, isolation = self._choose(packed)
            job = parse(packed, gpu_class.name, isolation, now, self.bodies)
            self.launcher.check_job(job.record(), gpu_class)
            stamps = stamps_of(packed)
        except InvalidJob as exc:
            return self._refuse(packed, exc, now)
        except (ValueError, TypeError, LookupError, AttributeError) as exc:
            # Any client may send any JSON: what none of the checks foresaw is the message's fault,
            # not the dispatcher's end.
            logger.exception("message cannot be read", extra={"action": "message_unread"})
            return self._refuse(
                packed,
                MalformedMessage(
                    f"headers cannot be read: {type(exc).__name__}: {exc}; send Celery's own"
                ),
                now,
            )
        record = job.record()
        if stamps and revocations.stamps_revoked(self.client, stamps, now - REVOKED_FOR):
            record["reason"] = EndReason.CANCELLED
        outcome = self.line.accept(gpu_class.name, record, json.dumps(packed))
        if outcome == "finishing":
            self.finisher.submit(gpu_class.name, job.delivery)
            return "cancelled"
        if outcome == "known":
            return outcome
        logger.info(
            "%s accepted for %s %s",
            job.delivery,
            gpu_class.name,
            isolation,
            extra={"action": "accepted"},
        )
        if not job.retries:  # a retry in line shows RETRY, as in plain Celery
            self._tell_state(record, QUEUED, packed, since=now)
        self.enqueue(gpu_class, job.delivery)
        if job.eta or job.expires:
            wakeups.wake(self.client, gpu_class.name)
        return outcome

    def enqueue(self, gpu_class: GpuClass, delivery: str) -> None:
        """Put an accepted delivery in line, and launch what may start."""
        self.launch(gpu_class, self.line.enqueue(gpu_class, delivery))

    def _choose(self, packed: dict[str, Any]) -> tuple[GpuClass, str]:
        queue, request = request_of(packed)
        fitting, isolation = resolve(self.classes, queue, request)
        if len(fitting) == 1:
            return fitting[0], isolation
        known = self.reader.find(job_id(packed), [each.name for each in fitting])
        if known:  # a redelivery or a retry stays where the job was
            return self.classes[known["gpu_class"]], known["isolation"]
        wanted = queue.isolation or request.isolation
        chosen = choose(
            fitting, wanted, lambda name, kind: self.reader.free(self.classes[name], kind)
        )
        return chosen, wanted or chosen.default_isolation

    def _refuse(self, packed: dict[str, Any], exc: InvalidJob, now: float) -> str:
        record = bare_job(
            packed, REFUSED, EXCLUSIVE, now, trusted=not isinstance(exc, UntrustedMessage)
        ).record()
        record["reason"], record["error"], record["error_type"] = (
            EndReason.REJECTED,
            str(exc),
            type(exc).__name__,
        )
        outcome = self.line.accept(REFUSED, record, json.dumps(packed))
        logger.warning("%s refused: %s", record["delivery"], exc, extra={"action": "refused"})
        if outcome == "known":
            return outcome
        self.finisher.submit(REFUSED, record["delivery"])
        return "refused"

    # -- launch ------------------------------------------------------------------------------------

    def launch(self, gpu_class: GpuClass, granted: list[Record]) -> None:
        """Launch admitted attempts, each in a thread of the pool."""
        while granted:
            for record in granted:
                self._submit(record)
            granted = self.line.admit(gpu_class) if len(granted) == BATCH else []

    def _submit(self, record: Record, *, repeated: bool = False) -> None:
        try:
            self._pool.submit(self._launch, record, repeated)
        except (
            RuntimeError
        ):  # this dispatcher is leaving: another's watcher launches what it had admitted
            logger.info(
                "%s left to another dispatcher", record["delivery"], extra={"action": "launch_left"}
            )

    def _launch(self, record: Record, repeated: bool) -> None:
        attempt = Attempt.of(record)
        delivery = attempt.delivery
        try:
            if not repeated:
                self._tell_state(record, DISPATCHED, None, since=record["admitted"])
            try:
                instance = self.launcher.start(record)
            except LaunchLater as exc:
                LAUNCHES.labels(record["gpu_class"], "later").inc()
                self._put_off(record, exc)
                return
            except (CannotLaunch, OSError) as exc:
                LAUNCHES.labels(record["gpu_class"], "failed").inc()
                logger.warning(
                    "%s not launched: %s", delivery, exc, extra={"action": "launch_failed"}
                )
                reason = exc.reason if isinstance(exc, CannotLaunch) else EndReason.INFRA
                final = isinstance(exc, CannotLaunch)
                self._release(RunningAttempt(attempt, ""), End(reason, str(exc)), final=final)
                return
            LAUNCHES.labels(record["gpu_class"], "launched").inc()
            self.line.launched(attempt, instance, self.launcher.claim_within)
            logger.info(
                "%s launched, attempt %s", delivery, attempt.number, extra={"action": "launched"}
            )
        except Exception:
            # Most likely Redis went away. Whether the process runs or not, the watcher finds out,
            # and repeats the launch.
            logger.exception(
                "%s: launch not confirmed", delivery, extra={"action": "launch_unsure"}
            )

    def _put_off(self, record: Record, why: LaunchLater) -> None:
        """Try a launch again after a pause, as long as somebody wants it and its time is not over;
        the slot stays taken.
        """
        attempt = Attempt.of(record)
        waited = self.line.clock() - record["admitted"]
        if waited >= why.limit and self.launcher.abandon(record):
            logger.warning(
                "%s not launched within %.0f s: %s",
                attempt.delivery,
                why.limit,
                why,
                extra={"action": "launch_failed"},
            )
            self._release(RunningAttempt(attempt, ""), End(why.reason, str(why)))
            return
        pause = min(LATEST, max(EARLIEST, waited)) if why.after is None else min(LATEST, why.after)
        logger.warning(
            "%s not launched, again in %.1f s: %s",
            attempt.delivery,
            pause,
            why,
            extra={"action": "launch_later"},
        )
        self.line.observed([Observation(attempt, why.wait, str(why))])

        def again() -> None:
            found = self.line.relaunch(attempt, 0.0)
            if found:  # else it is cancelled, launched by a repair, or another's by now
                self.relaunch(found)

        self._later.call(pause, again)

    def relaunch(self, record: Record) -> None:
        """Launch an attempt whose launch nobody confirmed."""
        self._submit(record, repeated=True)

    # -- end ---------------------------------------------------------------------------------------

    def on_end(self, running: RunningAttempt, end: End) -> bool:
        """An attempt's process is gone: free its slot, launch what may start, finish the job if its
        executor did not.

        Answers whether this freed the slot.
        """
        try:
            return self._release(running, end)
        except RedisError:
            logger.exception(
                "%s: end not written; the watcher repairs it",
                running.attempt.delivery,
                extra={"action": "end_unsure"},
            )
            return False

    def _release(self, running: RunningAttempt, end: End, *, final: bool = False) -> bool:
        attempt = running.attempt
        name, delivery = attempt.gpu_class, attempt.delivery
        gpu_class = self.classes.get(name) or GpuClass(
            name
        )  # a class no longer configured: free it all the same
        released = self.line.release(gpu_class, attempt, end, running.instance, final)
        self.launch(gpu_class, released.granted)
        if released.state == "finishing" and end.reason == EndReason.SUCCEEDED:  # a container job's
            logger.info(
                "%s attempt %s: its container has ended well",
                delivery,
                attempt.number,
                extra={"action": "container_ended"},
            )
            self.finisher.submit(name, delivery)
        elif released.state == "finishing":
            logger.warning(
                "%s attempt %s: %s",
                delivery,
                attempt.number,
                end.error,
                extra={"action": "executor_lost"},
            )
            self.finisher.submit(name, delivery)
        elif released.state == "delayed" and released.freed:
            logger.warning(
                "%s attempt %s: %s; tried again",
                delivery,
                attempt.number,
                end.error,
                extra={"action": "try_again"},
            )
            wakeups.wake(self.client, name)
        return released.freed

    # -- states ------------------------------------------------------------------------------------

    def _tell_state(
        self, record: Record, state: str, packed: Mapping[str, Any] | None, *, since: float
    ) -> None:
        # After a stall the job may have moved on in other hands, and an old state would hide its
        # result.
        if not record.get("ignore_result") and self.line.clock() - since < self.stale_after / 2:
            self.states.tell(record, state, packed)

    def refresh_states(self) -> None:
        """Keep the stored states of live jobs from expiring, in a thread: there may be many."""

        def live() -> Iterator[Record]:
            for name in self.classes:
                for record in self.reader.all_records(name):
                    if record["state"] != "ended" and not record.get("ignore_result"):
                        yield record

        def refresh() -> None:
            try:
                self.states.refresh(live())
            except Exception:
                logger.exception(
                    "states not refreshed; tried again later", extra={"action": "refresh_failed"}
                )

        self._pool.submit(refresh)

    def close(self) -> None:
        """Finish the launches under way; those put off are the next watcher's."""
        self._later.close()
        self._pool.shutdown(wait=True, cancel_futures=False)
