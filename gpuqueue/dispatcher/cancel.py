"""Cancel jobs in any state: record it in Redis first, which survives a crash; then notify the
process that must act.

Never here: work of unknown length in the thread of a caller, which is the loop that takes messages.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.glue.messages.parse import stamps_of
from gpuqueue.steps import Steps
from gpuqueue.store import revocations, wakeups
from gpuqueue.store.client import Redis, RedisError
from gpuqueue.store.line import REVOKED_FOR, Line
from gpuqueue.store.passing import passes
from gpuqueue.store.reader import Reader

logger = logging.getLogger(__name__)
#: Jobs of one revoke that the caller waits for. The other ones are cancelled in the background.
AT_ONCE = 100
#: Messages that are read in one round trip.
READ_AT_ONCE = 50
#: How often the live jobs are listed for a stamped revoke at most. A job that moves on meanwhile
#: may be missing in one list.
LISTS = 5
#: Seconds between two tries where another dispatcher is at work, or Redis is away.
PAUSE = 1.0


@dataclass
class Canceller:
    """Carries out revokes. Thread-safe."""

    client: Redis
    line: Line
    reader: Reader
    classes: Mapping[str, GpuClass]
    finisher: Finisher
    unserved: Callable[[], Iterable[str]] = tuple
    """Returns the classes that no dispatcher serves: a revoke reaches their jobs, too."""
    steps: Steps = field(default_factory=lambda: Steps(passes))

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._background = ThreadPoolExecutor(1, thread_name_prefix="gpuqueue-revoke")

    def cancel(self, job_id: str, *, terminate: bool, signal: str) -> str:
        """Cancel a job in any state; remember the id of an unknown one. cancel.lua lists the
        answers.
        """
        outcome, answers = self.line.cancel_everywhere(
            [*self.classes, *self.unserved()], job_id, terminate=terminate, signal=signal
        )
        for name, answer in answers.items():
            self._go_on(name, job_id, answer)
        return outcome

    def _go_on(self, gpu_class: str, job_id: str, answer: str) -> None:
        if answer == "cancelled":
            record = self.reader.find(job_id, [gpu_class])
            if record:
                self.finisher.submit(gpu_class, record["delivery"])
        if answer == "stopping":
            wakeups.wake(self.client, gpu_class)

    def cancel_all(self, job_ids: Sequence[str], *, terminate: bool, signal: str) -> dict[str, str]:
        """Cancel several jobs; return id → outcome, ``queued`` for those that are cancelled in the
        background.
        """

        def cancel_one(job_id: str) -> str:
            cancel = partial(self.cancel, job_id, terminate=terminate, signal=signal)
            return self.steps.run("revoke", cancel, "failed; see the log", job=job_id)

        def cancel_others() -> None:
            for job_id in job_ids[AT_ONCE:]:
                cancel_one(job_id)

        outcomes = {job_id: cancel_one(job_id) for job_id in job_ids[:AT_ONCE]}
        if len(job_ids) > AT_ONCE:
            self._put(cancel_others)
        return dict.fromkeys(job_ids, "queued") | outcomes

    def cancel_by_stamps(
        self, stamps: dict[str, list[str]], *, terminate: bool, signal: str
    ) -> None:
        """Cancel the jobs that carry any of these stamps, now or when they arrive: in the
        background, and each class in one of the dispatchers that got the revoke.
        """
        text = json.dumps([stamps, terminate, signal], sort_keys=True)
        revoke = hashlib.sha256(text.encode()).hexdigest()[:16]
        wanted = {header: set(values) for header, values in stamps.items()}

        def carries(packed: Mapping[str, Any]) -> bool:
            try:
                carried = stamps_of(packed["headers"])
            except Exception:  # a damaged message carries none
                return False
            return any(values & set(carried.get(name, ())) for name, values in wanted.items())

        def cancel_in(name: str, job_id: str) -> None:
            answer = self.line.cancel(name, job_id, terminate=terminate, signal=signal)
            self._go_on(name, job_id, answer)

        def cancel_stamped() -> None:
            revocations.revoke_stamps(self.client, stamps, REVOKED_FOR)
            for name in [*self.classes, *self.unserved()]:
                while (claimed := revocations.claim(self.client, name, revoke)) is False:
                    if self._stop.wait(PAUSE):
                        return
                if claimed:
                    for job_id in self._stamped(name, revoke, carries):
                        self.steps.run("revoke", partial(cancel_in, name, job_id), None, job=job_id)
                    revocations.end_claim(self.client, name, revoke)

        self._put(cancel_stamped)

    def _stamped(self, name: str, revoke: str, carries: Callable[..., bool]) -> Iterator[str]:
        """Yield the ids of the live jobs of a class that carry a stamp."""
        seen: set[str] = set()
        for _ in range(LISTS):
            before = len(seen)
            for some in self.reader.live(name):
                new = [delivery for delivery in some if delivery not in seen]
                seen.update(new)
                for first in range(0, len(new), READ_AT_ONCE):
                    for packed in self.reader.messages(name, new[first : first + READ_AT_ONCE]):
                        if carries(packed):
                            yield packed["headers"]["id"]
                    revocations.keep_claim(self.client, name, revoke)
            if len(seen) == before:
                break

    def _put(self, step: Callable[[], None]) -> None:
        """Take a step in the background, again and again until Redis has answered. A step may be
        repeated.
        """

        def run() -> None:
            told = ""
            while not self._stop.is_set():
                try:
                    step()
                    break
                except RedisError as exc:
                    if not passes(exc):
                        logger.exception("revoke failed", extra={"action": "revoke_failed"})
                        break
                    if str(exc) != told:  # once: Redis may be away for long
                        logger.warning("revoke put off: %s", exc, extra={"action": "revoke_later"})
                    told = str(exc)
                    self._stop.wait(PAUSE)
                except Exception:
                    logger.exception("revoke failed", extra={"action": "revoke_failed"})
                    break

        self._background.submit(run)

    def close(self) -> None:
        """Leave the revokes under way to other dispatchers."""
        self._stop.set()
        self._background.shutdown(wait=True, cancel_futures=True)
