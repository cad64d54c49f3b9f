"""Cancel jobs in any state: record it in Redis first, which survives a crash; then notify the
process that must act.

Never here: work of unknown length in the thread of a caller, which is the loop that takes messages.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.glue.messages.parse import stamps_of
from gpuqueue.steps import Steps
from gpuqueue.store import revocations, wakeups
from gpuqueue.store.cancels import REVOKED_FOR
from gpuqueue.store.client import Redis, RedisError
from gpuqueue.store.line import Line
from gpuqueue.store.passing import passes
from gpuqueue.store.reader import Reader

logger = logging.getLogger(__name__)
#: Jobs that are cancelled together. The caller of a revoke waits for the first ones.
AT_ONCE = 100
#: Seconds that a caller waits at most: it is the loop of the worker. The revoke goes on after it.
ANSWER = 0.5
#: Revokes that wait at most, while Redis is away. Each has as many ids as its sender wrote.
MOST_WAITING = 1000
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
        # A search for stamps may take long, and must not keep other revokes waiting.
        self._by_id = ThreadPoolExecutor(1, thread_name_prefix="gpuqueue-revoke")
        self._background = ThreadPoolExecutor(1, thread_name_prefix="gpuqueue-revoke-stamps")
        self._lock = threading.Lock()
        self._waiting: Counter[ThreadPoolExecutor] = Counter()

    def cancel_all(self, job_ids: Sequence[str], *, terminate: bool, signal: str) -> dict[str, str]:
        """Cancel jobs in any state; remember the ids of unknown ones. Returns id → outcome: an
        answer of cancel.lua, ``queued`` for those that are cancelled later, or ``failed``.
        """
        left = deque(job_ids[first : first + AT_ONCE] for first in range(0, len(job_ids), AT_ONCE))
        if not left:
            return {}
        outcomes: Future[dict[str, str]] = Future()

        def cancel_batches() -> None:
            while left and not self._stop.is_set():
                classes = [*self.classes, *self.unserved()]
                calls = [(name, job_id) for job_id in left[0] for name in classes]
                found = iter(self._cancel(calls, terminate=terminate, signal=signal))
                batch = {job_id: _outcome(list(islice(found, len(classes)))) for job_id in left[0]}
                left.popleft()
                if not outcomes.done():
                    outcomes.set_result(batch)

        several, late = len(left) > 1, self._waiting[self._by_id] > 0
        end = self._put(self._by_id, cancel_batches)
        if end is None:
            return dict.fromkeys(job_ids, "failed")
        if not late:  # while others wait, this one would take its whole time
            awaited: set[Future[Any]] = {outcomes, end} if several else {end}
            wait(awaited, ANSWER, FIRST_COMPLETED)
        if outcomes.done():
            return dict.fromkeys(job_ids, "queued") | outcomes.result()
        return dict.fromkeys(job_ids, "failed" if end.done() else "queued")

    def _cancel(
        self, jobs: Sequence[tuple[str, str]], *, terminate: bool, signal: str
    ) -> list[str]:
        """Cancel jobs (class, id), and have them finished or stopped; return their outcomes. Raises
        an error that passes.
        """
        outcomes, stopping = [], set()
        answers = self.line.cancel_each(jobs, terminate=terminate, signal=signal)
        for (name, job_id), answer in zip(jobs, answers, strict=True):
            if isinstance(answer, Exception):
                self.steps.failed("revoke", answer, job=job_id)
                outcomes.append("failed")
                continue
            self.steps.succeeded("revoke", job=job_id)
            outcomes.append(answer.outcome)
            if answer.outcome == "cancelled":
                self.finisher.submit(name, answer.delivery)
            elif answer.outcome == "stopping":
                stopping.add(name)
        for name in stopping:
            wakeups.wake(self.client, name)
        return outcomes

    def cancel_by_stamps(
        self, stamps: dict[str, list[str]], *, terminate: bool, signal: str
    ) -> bool:
        """Cancel the jobs that carry any of these stamps, now or when they arrive: in the
        background, and each class in one of the dispatchers that got the revoke. False: too many
        revokes wait.
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

        def cancel_stamped() -> None:
            revocations.revoke_stamps(self.client, stamps, REVOKED_FOR)
            for name in [*self.classes, *self.unserved()]:
                while (claimed := revocations.claim(self.client, name, revoke)) is False:
                    if self._stop.wait(PAUSE):
                        return
                if claimed:
                    for job_ids in self._stamped(name, revoke, carries):
                        calls = [(name, job_id) for job_id in job_ids]
                        self._cancel(calls, terminate=terminate, signal=signal)
                    revocations.end_claim(self.client, name, revoke)

        return self._put(self._background, cancel_stamped) is not None

    def _stamped(self, name: str, revoke: str, carries: Callable[..., bool]) -> Iterator[list[str]]:
        """Yield the ids of the live jobs of a class that carry a stamp, in lists."""
        seen: set[str] = set()
        for _ in range(LISTS):
            before = len(seen)
            for some in self.reader.live(name):
                new = [delivery for delivery in some if delivery not in seen]
                seen.update(new)
                for first in range(0, len(new), READ_AT_ONCE):
                    messages = self.reader.messages(name, new[first : first + READ_AT_ONCE])
                    yield [packed["headers"]["id"] for packed in messages if carries(packed)]
                    revocations.keep_claim(self.client, name, revoke)
            if len(seen) == before:
                break

    def _put(self, pool: ThreadPoolExecutor, step: Callable[[], None]) -> Future[None] | None:
        """Take a step in the background, again and again until Redis has answered. A step may be
        repeated. None: too many steps wait.
        """

        def run() -> None:
            try:
                self._repeat(step)
            finally:
                with self._lock:
                    self._waiting[pool] -= 1

        with self._lock:
            if self._waiting[pool] >= MOST_WAITING:
                logger.error(
                    "revoke dropped: %d wait for Redis",
                    MOST_WAITING,
                    extra={"action": "revoke_lost"},
                )
                return None
            self._waiting[pool] += 1
        return pool.submit(run)

    def _repeat(self, step: Callable[[], None]) -> None:
        told = ""
        while not self._stop.is_set():
            try:
                step()
                break
            except RedisError as exc:
                if not passes(exc):
                    self.steps.failed("revoke", exc)
                    break
                if str(exc) != told:  # once: Redis may be away for long
                    logger.warning("revoke put off: %s", exc, extra={"action": "revoke_later"})
                told = str(exc)
                self._stop.wait(PAUSE)
            except Exception as exc:
                self.steps.failed("revoke", exc)
                break

    def close(self) -> None:
        """Leave the revokes under way to other dispatchers."""
        self._stop.set()
        for pool in (self._by_id, self._background):
            pool.shutdown(wait=True, cancel_futures=True)


def _outcome(answers: Sequence[str]) -> str:
    """Return the outcome of a job from the answers of all classes: one at most has it."""
    failed = "failed" if "failed" in answers else "unknown"
    return next((answer for answer in answers if answer not in ("unknown", "failed")), failed)
