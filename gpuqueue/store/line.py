"""What dispatchers and watchers do to the state: accept, enqueue, admit, release, cancel, tick,
finish, adopt.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt, Observation
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import NEVER_AGAIN, TRY_AGAIN, EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.scripts import Scripts

#: Jobs that one decision starts at most, so that a script stays short; whoever gets this many asks
#: again.
BATCH = 64
#: How long a revocation of an unknown task is remembered, in seconds (Celery's workers keep theirs
#: 3 hours).
REVOKED_FOR = 3 * 3600.0


#: What is known of an attempt that ended in nobody's sight.
UNSEEN = End(EndReason.INFRA, "")


@dataclass(frozen=True, slots=True)
class Released:
    """What a release did."""

    freed: bool
    state: str
    granted: list[Record] = field(default_factory=list)


class Line:
    """The verbs on the line of a class. ``by`` names this dispatcher in what it admits, ``owner``
    whose cluster runs it.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        by: str = "",
        owner: str = "",
        keep: float = 86_400.0,
        max_attempts: int = 3,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._scripts = Scripts(client)
        self.by = by
        self.owner = owner
        self.keep = keep
        self.max_attempts = max_attempts
        self.clock = clock
        #: GPUs handed out to each class by the local launcher; none for classes not named here.
        self.devices: dict[str, int] = {}

    def spec(self, gpu_class: GpuClass) -> str:
        """Return what the scripts are told of a class."""
        owner = {"owner": self.owner} if self.owner else {}
        return json.dumps(gpu_class.spec(self.devices.get(gpu_class.name, 0)) | owner)

    def accept(self, gpu_class: str, record: Record, message: str) -> str:
        """Keep a delivery. Answers ``accepted``, ``known`` or ``finishing``."""
        answer: str = self._scripts.call(
            "accept", gpu_class, record["delivery"], json.dumps(record), message, self.clock()
        )
        return answer

    def enqueue(self, gpu_class: GpuClass, delivery: str) -> list[Record]:
        """Put an accepted delivery in line; answers the attempts to launch now."""
        return _records(
            self._scripts.call(
                "enqueue", gpu_class.name, delivery, self.spec(gpu_class), *self._admission()
            )
        )

    def admit(self, gpu_class: GpuClass) -> list[Record]:
        """Make holders of all that can start; answers the attempts to launch now."""
        return _records(
            self._scripts.call("admit", gpu_class.name, self.spec(gpu_class), *self._admission())
        )

    def launched(self, attempt: Attempt, instance: str, claim_within: float) -> bool:
        """Note that the attempt's process (or Job) exists; it has ``claim_within`` seconds to be
        claimed.
        """
        now = self.clock()
        arguments = (attempt.delivery, attempt.number, instance, now, now + claim_within)
        return bool(self._scripts.call("launched", attempt.gpu_class, *arguments))

    def relaunch(self, attempt: Attempt, older_than: float) -> Record | None:
        """Take up a launch that nobody has confirmed for ``older_than`` seconds."""
        now = self.clock()
        answer = self._scripts.call(
            "relaunch",
            attempt.gpu_class,
            attempt.holder,
            attempt.delivery,
            now - older_than,
            now,
        )
        return json.loads(answer) if answer else None

    def release(
        self,
        gpu_class: GpuClass,
        attempt: Attempt,
        end: End = UNSEEN,
        instance: str = "",
        final: bool = False,
    ) -> Released:
        """Free the slot of an attempt known to have ended; answers the attempts to launch in its
        place.

        ``end`` counts only if the executor did not report; its evidence is kept all the same. An
        attempt that was never claimed is tried again while attempts are left, unless what it asks
        for cannot be had (``NEVER_AGAIN``), or ``final``. ``instance`` is empty when no process was
        ever seen; an attempt that has one is not freed by that.
        """
        now = self.clock()
        ended = {
            "reason": end.reason,
            "error": end.error,
            "avoid": end.avoid,
            "evidence": dict(end.evidence),
        }
        ended["tried"] = "never" if final else tried_again(end.reason)
        answer = self._scripts.call(
            *(
                "release",
                gpu_class.name,
                attempt.delivery,
                attempt.number,
                instance,
                json.dumps(ended),
                self.max_attempts,
            ),
            *(self.spec(gpu_class), *self._admission(now)),
        )
        return Released(bool(answer[0]), answer[1] if len(answer) > 1 else "", _records(answer[2:]))

    def observed(self, observations: Sequence[Observation]) -> list[bool]:
        """Record what attempts wait for, all in one round trip; answers for each whether it is
        current.
        """
        now = self.clock()
        calls = [
            (
                each.attempt.gpu_class,
                (
                    each.attempt.delivery,
                    each.attempt.number,
                    each.wait or "",
                    each.detail,
                    each.pod,
                    each.node,
                    now + each.claim_within if each.claim_within is not None else "",
                ),
            )
            for each in observations
        ]
        return [bool(answer) for answer in self._scripts.pipelined("observed", calls)]

    def give_up(self, attempt: Attempt, reason: EndReason, error: str) -> bool:
        """Note why an attempt that does not start is given up, before it is ended. False: it runs,
        or is not current.
        """
        return bool(
            self._scripts.call(
                "doom",
                attempt.gpu_class,
                attempt.delivery,
                attempt.number,
                reason,
                error,
                tried_again(reason),
            )
        )

    def cancel(
        self, gpu_class: str, job_id: str, *, terminate: bool = True, signal: str = "TERM"
    ) -> str:
        """Cancel a job; see cancel.lua for the answers."""
        now = self.clock()
        answer: str = self._scripts.call(
            "cancel", gpu_class, job_id, int(terminate), signal, now, now + REVOKED_FOR
        )
        return answer

    def cancel_everywhere(
        self, classes: Iterable[str], job_id: str, *, terminate: bool = True, signal: str = "TERM"
    ) -> tuple[str, dict[str, str]]:
        """Cancel a job in every class, since only the store knows where it is (and where it may
        still come).

        Answers what became of it, and class → answer; see cancel.lua for the words.
        """
        answers = {
            name: self.cancel(name, job_id, terminate=terminate, signal=signal) for name in classes
        }
        return (
            next((answer for answer in answers.values() if answer != "unknown"), "unknown"),
            answers,
        )

    def tick(self, gpu_class: str) -> tuple[int, float | None]:
        """Move what is due. Answers how much moved, and when the next is due (None: nothing waits
        for a time).
        """
        moved, due = self._scripts.call("tick", gpu_class, self.clock(), 256)
        return moved, float(due) if due else None

    def finish_claim(
        self, gpu_class: str, delivery: str, finisher: str, lease: float
    ) -> tuple[str, Record | None, dict[str, Any] | None]:
        """Claim the finishing of a job for ``lease`` seconds. Answers (``ok``, record, message) or
        (why not, None, None).
        """
        answer = self._scripts.call(
            "finish_claim", gpu_class, delivery, finisher, self.clock(), lease, self.keep
        )
        if answer[0] != "ok":
            return answer[0], None, None
        return "ok", json.loads(answer[1]), json.loads(answer[2]) if answer[2] else None

    def finished(self, gpu_class: str, delivery: str, finisher: str, reason: str) -> bool:
        """Confirm a finish; ``reason`` is the end reason that was written."""
        return bool(
            self._scripts.call(
                "finished", gpu_class, delivery, finisher, reason, self.clock(), self.keep
            )
        )

    def open(self, gpu_class: str) -> bool:
        """Let jobs of a class start: every live attempt is a holder. Answers whether it was closed."""
        return bool(self._scripts.call("open", gpu_class, self.clock()))

    def adopt(self, gpu_class: str, record: Record) -> bool:
        """Make a live attempt a holder that Redis does not know."""
        return bool(self._scripts.call("adopt", gpu_class, json.dumps(record), self.clock()))

    def _admission(self, now: float | None = None) -> tuple[float, str, str, int]:
        # The nonce makes tokens that nobody can guess: Lua in Redis has no randomness of its own.
        return (self.clock() if now is None else now, secrets.token_hex(16), self.by, BATCH)


def tried_again(reason: EndReason) -> str:
    """Return in the scripts' words when a new attempt follows one that ended so."""
    return "always" if reason in TRY_AGAIN else "never" if reason in NEVER_AGAIN else "unstarted"


def _records(answers: Iterable[str]) -> list[Record]:
    return [json.loads(answer) for answer in answers]
