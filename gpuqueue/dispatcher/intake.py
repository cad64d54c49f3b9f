"""The intake: takes messages from the broker, and has them accepted, one after the other.

A message stays in Redis until it is accepted, so a dispatcher that is killed at any moment loses
none. Never here: a command that takes a message off a list and answers a connection.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import redis

from gpuqueue.dispatcher.this_process import has_ended, process_name
from gpuqueue.errors import InvalidJob, MalformedMessage, StateDamaged, StateUnavailable
from gpuqueue.glue.worker.broker import Broker
from gpuqueue.glue.worker.envelope import open_envelope
from gpuqueue.model.text import LONGEST_ERROR, fitting
from gpuqueue.steps import Steps
from gpuqueue.store.intake import BrokerKeys, InHand, Intake, Report, Taken, Verdict

logger = logging.getLogger(__name__)
#: Seconds between two calls while nothing happens. 1: Redis tells of a new message at once, and the
#: call is for what it cannot tell: a pause that is over, a holder that has ended.
POLL = 1.0
#: The same where Redis does not tell of new messages.
POLL_UNTRACKED = 0.25
#: Seconds between two looks at the messages in hand of other processes, and of older dispatchers.
LOOK = 5.0
#: Seconds until the next try after an error that is not the message's.
PAUSE = 0.5
#: Seconds after which a turn counts as hanging.
HANGS = 30.0
#: How much of the lease one batch may use: the rest is given back in time.
SHARE = 0.5


class Accepting(Protocol):
    """Accepts messages. Accepting a message twice makes one job."""

    def __call__(
        self,
        packed: dict[str, Any],
        problem: InvalidJob | None = None,
        before_start: Callable[[str], object] = lambda gpu_class: None,
    ) -> tuple[str, str]:
        """Accept a message; return the outcome and the class of its job."""
        ...


class Telling(Protocol):
    """Sends the events of messages."""

    def tell(self, outcome: str, gpu_class: str, headers: Mapping[str, Any]) -> None:
        """Send the event of a message."""
        ...

    def flush(self) -> None:
        """Send what is buffered."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class _Wait(Exception):
    """The state cannot be written now: the message costs no try."""


class IntakeLoop:
    """Takes messages in a thread, from :meth:`start` to :meth:`stop`.

    Args:
        connect: connects to the broker.
        accept: accepts a message.
        lease: seconds for which messages may be in hand.
    """

    def __init__(self, connect: Callable[[], Broker], accept: Accepting, lease: float) -> None:
        self._connect = connect
        self._accept = accept
        self._lease = lease
        self._process = process_name()
        self._steps = Steps()
        self._stop = threading.Event()
        self._leaves = self._anew = False
        self._thread: threading.Thread | None = None
        self.consumed: tuple[str, ...] = ()
        """The queues whose messages it takes."""
        self._reports: list[Report] = []
        self._lost: list[str] = []
        self._turned = time.monotonic()
        self._trouble = ""
        self._told_untracked = False

    def start(self, queues: Callable[[], Sequence[str]], events: Telling) -> None:
        """Start to take messages of the queues that ``queues`` returns."""
        self.stop()
        self._stop = threading.Event()
        self._turned, self._trouble = time.monotonic(), ""
        self._thread = threading.Thread(
            target=self._run,
            args=(self._stop, queues, events),
            name="gpuqueue-intake",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Give the messages in hand back, and take no more."""
        thread, self._thread = self._thread, None
        self._stop.set()
        self.consumed = ()
        if thread is not None:
            thread.join(HANGS)

    def connect_again(self) -> None:
        """Connect once more soon: the options of the broker have changed."""
        self._anew = True

    def take_no_more(self) -> None:
        """Give the messages in hand back soon, and take no more in this process. For handlers of
        signals: it neither waits nor takes a lock.
        """
        self._leaves = True

    def works(self) -> bool | None:
        """Return whether it takes messages; None: it may hang."""
        if self._trouble:
            return False
        return True if time.monotonic() - self._turned < HANGS else None

    # -- the loop ----------------------------------------------------------------------------------

    def _run(
        self, stop: threading.Event, queues: Callable[[], Sequence[str]], events: Telling
    ) -> None:
        while not self._ends(stop):
            try:
                self._anew = False  # before: an option that changes meanwhile counts
                broker = self._connect()
                try:
                    self._serve(stop, broker, queues, events)
                finally:
                    with suppress(Exception):
                        broker.close()
            except Exception as exc:  # the messages in hand are reported on the next connection
                self._failed(exc)
                stop.wait(PAUSE)
        events.close()

    def _ends(self, stop: threading.Event) -> bool:
        return self._leaves or stop.is_set()

    def _serve(
        self,
        stop: threading.Event,
        broker: Broker,
        queues: Callable[[], Sequence[str]],
        events: Telling,
    ) -> None:
        keys = BrokerKeys(broker.prefix, broker.separator, tuple(broker.steps))
        intake = Intake(broker.client, keys, self._process, self._lease, self._lost)
        self._tell_untracked(broker)
        poll = POLL_UNTRACKED if broker.untracked else POLL
        turn, look_at, gone = 0, 0.0, list[str]()
        try:
            while not (self._ends(stop) or self._anew):
                self._turned = now = time.monotonic()
                names = list(queues())
                self.consumed = tuple(names)
                looks = now >= look_at
                if looks:
                    look_at = now + LOOK
                    broker.restore_unacked()
                turn += 1
                taken = self._take(
                    intake, names[turn % max(1, len(names)) :] + names[: turn % max(1, len(names))],
                    others=looks, gone=gone,
                )  # fmt: skip
                self._well()
                gone = [each for each in taken.processes if has_ended(each)]
                waits = self._accept_all(stop, broker, taken.messages, events)
                if waits:
                    stop.wait(PAUSE)
                elif not (taken.more or gone):
                    self._sleep(stop, broker, poll)
        finally:
            if self._ends(stop):
                self._leave(intake)

    def _take(self, intake: Intake, queues: Sequence[str], **more: Any) -> Taken:
        if not (queues or self._reports):
            return Taken()
        taken = intake.take(queues, self._reports, **more)
        self._reports = []
        for letter, error in taken.set_aside.items():
            logger.error(
                "message set aside as dead letter %s: %s",
                letter,
                error,
                extra={"action": "message_dead"},
            )
        for queue in queues:
            if problem := taken.problems.get(queue):
                self._steps.failed("take", redis.ResponseError(problem), job=f"queue {queue}")
            else:
                self._steps.succeeded("take", job=f"queue {queue}")
        return taken

    def _leave(self, intake: Intake) -> None:
        """Put messages that were not tried back onto their lists, the oldest last: it is next."""
        self._reports = [
            replace(each, verdict=Verdict.RETURNED) if each.verdict is Verdict.BACK else each
            for each in reversed(self._reports)
        ]
        self._take(intake, [], most=0)

    def _sleep(self, stop: threading.Event, broker: Broker, poll: float) -> None:
        until = time.monotonic() + poll
        while not (self._ends(stop) or self._anew) and (left := until - time.monotonic()) > 0:
            if broker.wait(min(left, 0.25)):
                return

    # -- messages ----------------------------------------------------------------------------------

    def _accept_all(
        self, stop: threading.Event, broker: Broker, messages: Sequence[InHand], events: Telling
    ) -> bool:
        """Have messages accepted in their order; return whether they must wait."""
        until, waits = time.monotonic() + self._lease * SHARE, False
        for message in messages:
            self._turned = now = time.monotonic()
            if waits or self._ends(stop) or now > until:
                self._reports.append(Report(message, Verdict.BACK))
                continue
            try:
                self._reports.append(self._accept_one(broker, message, events))
            except _Wait:
                waits = True
                self._reports.append(Report(message, Verdict.BACK))
        events.flush()
        return waits

    def _accept_one(self, broker: Broker, message: InHand, events: Telling) -> Report:
        try:
            packed, problem = open_envelope(broker.channel, message.text)
            told: list[str] = []

            def received(gpu_class: str) -> None:  # else Flower could see the job start first
                events.tell("accepted", gpu_class, packed["headers"])
                events.flush()
                told.append("accepted")

            outcome, gpu_class = self._accept(packed, problem, received)
        except MalformedMessage as exc:
            # Without an id no caller can see a refusal.
            return Report(message, Verdict.DEAD, fitting(str(exc), LONGEST_ERROR))
        except StateUnavailable as exc:
            self._steps.failed("accept", exc)  # the message is taken again
            raise _Wait from exc
        except StateDamaged as exc:  # the messages of other classes are accepted
            self._steps.failed("accept", exc, where=message.queue)
            return Report(message, Verdict.WAITS)
        except Exception as exc:
            self._steps.failed("accept", exc, job=f"message {message.number}")
            error = fitting(f"{type(exc).__name__}: {exc}", LONGEST_ERROR)
            return Report(message, Verdict.FAILED, error)
        self._steps.succeeded("accept")
        self._steps.succeeded("accept", job=f"message {message.number}")
        if outcome == "ending":
            return Report(message, Verdict.SOON)
        if not told:
            events.tell(outcome, gpu_class, packed["headers"])
        return Report(message, Verdict.DONE)

    # -- what is logged once -----------------------------------------------------------------------

    def _failed(self, exc: Exception) -> None:
        words = f"{type(exc).__name__}: {exc}"
        if words != self._trouble:
            logger.warning("no messages are taken: %s", words, extra={"action": "intake_waits"})
        self._trouble = words

    def _well(self) -> None:
        if self._trouble:
            logger.info("messages are taken again", extra={"action": "intake_resumed"})
        self._trouble = ""

    def _tell_untracked(self, broker: Broker) -> None:
        if broker.untracked and not self._told_untracked:
            self._told_untracked = True
            logger.warning(
                "Redis does not tell of new messages, so they are looked for every %g s: %s;"
                " allow CLIENT ID and CLIENT TRACKING (deploy/redis/users.acl)",
                POLL_UNTRACKED,
                broker.untracked,
                extra={"action": "untracked"},
            )
