"""Jobs that run out of GPU memory, between two classes: acceptance, finishers and scripts are the
real ones, and executors are played.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import redis
from celery import Celery

from gpuqueue.classes.gpu_class import GpuClass, chords_class
from gpuqueue.dispatcher.accept import Accept
from gpuqueue.dispatcher.finish import Finisher
from gpuqueue.dispatcher.move import Move
from gpuqueue.dispatcher.shown import ShownClasses
from gpuqueue.glue.messages.parse import UNSIGNED
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.answers import Granted, Released
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.line import Line
from gpuqueue.store.logs import Logs
from gpuqueue.store.reader import Reader
from gpuqueue.store.usage import Capacities, Usage
from tests.support.model_time import Timed
from tests.support.waiting import until

GB = 10**9
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1, memory=16 * GB)
A100 = GpuClass("a100", exclusive_slots=1, memory=80 * GB, max_time_limit=60)
CLASSES = {each.name: each for each in (T4, A100)}
INSTANCE = "h:n:1"
#: Seconds that the claim of a finisher lasts.
LEASE = 15.0


class Crash(BaseException):
    """The process of a finisher is killed."""


class Moving(Timed):
    """A dispatcher of two classes."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        client.flushdb()
        self.now = 1_000_000.0
        self.line, self.reader = Line(client, max_attempts=2, keep=100_000), Reader(client)
        for name in (*CLASSES, "refused"):
            self.line.open(name)
        Capacities(client, CLASSES).note()
        self.app = Celery("played", broker="memory://", backend="cache+memory://")
        self.started: list[Record] = []
        self.states: list[tuple[str, str]] = []
        self.crashes: set[str] = set()
        parts: Any = self
        self.accept = Accept(
            *(client, self.line, self.reader, dict(CLASSES), UNSIGNED, parts, parts, parts, parts),
            chords=chords_class([T4]),
            shown=ShownClasses(client, CLASSES, chords_class([T4])),
            limit_of=lambda task, image: 90.0,
        )

    # -- what acceptance asks of other parts -------------------------------------------------------

    def check_job(self, record: Record, gpu_class: GpuClass) -> None:
        """Any job may be launched."""

    def launch(self, gpu_class: GpuClass, granted: Granted) -> None:
        self.started += granted

    def store(self, record: Record, state: str, *_: Any, **__: Any) -> None:
        self.states.append((record["gpu_class"], state))

    def submit(self, gpu_class: str, delivery: str) -> None:
        """A later turn finishes it."""

    # -- messages ----------------------------------------------------------------------------------

    def send(self, queue: str = "gpu.t4.exclusive", tag: str = "tag", **request: Any) -> str:
        """Accept a message of the task ``a``; return what became of it."""
        headers = {"id": "a", "task": "shop.train", "retries": request.pop("retries", 0)}
        gpu = {"escalate": True, **request}
        packed = {
            "headers": {**headers, "gpu": gpu},
            "body": json.dumps([[], {}, {}]),
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "properties": {"delivery_tag": tag},
            "delivery_info": {"exchange": "", "routing_key": queue},
        }
        return self.accept(packed).outcome

    def record(self, gpu_class: str, delivery: str = "a") -> Record:
        found = self.reader.record(gpu_class, delivery)
        assert found is not None, f"{gpu_class}: {self.client.keys('*jobs')}"
        return found

    # -- attempts ----------------------------------------------------------------------------------

    def claim(self) -> tuple[Record, ExecutorAttempt]:
        """Let an executor claim the attempt that was granted last."""
        record = self.started.pop()
        executor = ExecutorAttempt(self.client, Attempt.of(record), record["token"])
        executor.claim(INSTANCE, "w")
        self.now += 1
        return record, executor

    def ends(self, record: Record, reason: EndReason = EndReason.ERROR) -> Released:
        """The process of an attempt has ended."""
        gpu_class = CLASSES[record["gpu_class"]]
        end = End(reason, "exit code 0")
        released = self.line.release(gpu_class, Attempt.of(record), end, INSTANCE)
        self.started += released.granted
        return released

    def run(self, outcome: EndReason, *, confirmed: bool = True) -> Released:
        """Let an attempt report an outcome, and end."""
        record, executor = self.claim()
        executor.report(outcome)
        if confirmed:
            executor.reported(100_000)
        return self.ends(record)

    # -- finishers ---------------------------------------------------------------------------------

    def finish(self, move: Callable[..., str] | None = None) -> None:
        """Let a finisher have each job that is due, once the claims of others have expired."""
        self.now += LEASE + 1
        launcher: Any = SimpleNamespace(finishers=1, closed=False)
        finisher = Finisher(
            *(_Line(self), self.reader, Logs(self.client), self.app, "here", launcher),
            lambda event: None,
            lease=LEASE,
            move=move or self._move,
        )
        try:
            for name in CLASSES:
                for delivery, _ in self.reader.todo(name, self.now).finishing:
                    finisher.submit(name, delivery)
            until(lambda: not finisher._under_way, what="the finisher is done")
        finally:
            finisher.close()

    def _move(self, record: Record, packed: Any) -> str:
        self.crash("before the move")
        why = Move(self.accept)(record, packed)
        self.crash("after the move")
        return why

    def crash(self, where: str) -> None:
        """Crash here, once, if the test wants that."""
        if where in self.crashes:
            self.crashes.remove(where)
            raise Crash(where)

    # -- what is known afterwards ------------------------------------------------------------------

    def live(self) -> list[tuple[str, str, str]]:
        """Return class, isolation and state of each job that has not ended."""
        return [
            (name, record["isolation"], record["state"])
            for name in CLASSES
            for record in self.reader.all_records(name)
            if record["state"] != "ended"
        ]

    def accounts(self) -> list[tuple[str, int, str]]:
        """Return class, attempt and reason of each account, in the order of their ends."""
        entries = [each for name in CLASSES for each in Usage(self.client).of(name, 0).entries]
        found = sorted(entries, key=lambda entry: entry.stop)
        return [(each.gpu_class, each.attempt, each.reason) for each in found]


class _Line(Line):
    """A line on which a finisher may be killed after each of its writes."""

    def __init__(self, moving: Moving) -> None:
        super().__init__(moving.client, keep=100_000)
        self._moving = moving

    def finish_claim(self, *arguments: Any, **named: Any) -> Any:
        answer = super().finish_claim(*arguments, **named)
        self._moving.crash("after the claim")
        return answer

    def finished(self, *arguments: Any, **named: Any) -> bool:
        answer = super().finished(*arguments, **named)
        self._moving.crash("after the end")
        return answer
