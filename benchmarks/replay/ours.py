"""gpuqueue itself: the real scripts on a real Redis, with a simulated clock."""

from __future__ import annotations

import math
import time

import redis

from benchmarks.replay.loop import Start
from benchmarks.replay.traces import Job, Shape
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.place import Site
from gpuqueue.model.record import Record
from gpuqueue.model.states import JobState
from gpuqueue.store.answers import Granted
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.line import Line
from gpuqueue.store.turn import Turns
from tests.support.model_time import Timed

HOST = "replay"
#: The watcher takes a turn after so many events; it moves what is due, e.g. old tombstones.
EVENTS_OF_A_TURN = 200
#: Seconds that a tombstone is kept.
KEEP = 60.0
#: A Unix time for the first arrival.
EPOCH = 1_700_000_000.0


#: The labels of the report: the better one comes first.
DEVICE, WHOLE = "gpuqueue, a domain a GPU", "gpuqueue, one domain"


def classes(shape: Shape, patience: int) -> dict[str, GpuClass]:
    """Return label → the class of gpuqueue for such GPUs: with a domain for each GPU, and with all
    GPUs as one domain.
    """

    def made(name: str, gpus: int, domain: str) -> GpuClass:
        """A class whose slots are those of a domain of so many GPUs."""
        return GpuClass(
            f"replay-{name}",
            shared_slots=gpus * shape.slots,
            exclusive_slots=gpus,
            exclusive_patience=patience,
            domain=domain,
        ).on(shape.gpus)

    return {DEVICE: made("device", 1, "device"), WHOLE: made("class", shape.gpus, "class")}


class Ours(Timed):
    """A class of gpuqueue, driven as dispatchers and executors drive it: accept, claim, report,
    release, and the turn of the watcher.

    Args:
        client: of a Redis without state; scripts are loaded with the simulated clock (see
            :func:`tests.support.model_time.model_time`).
        gpu_class: the class, with its slots, its bounds and its domains.
        shape: the GPUs that the local launcher would have.
        label: its name in the report.
        whole: whether all GPUs are one domain.
        limits: jobs declare a time limit of so many times their duration; 0: none.
    """

    tick = 0.0

    def __init__(
        self,
        client: redis.Redis,
        gpu_class: GpuClass,
        shape: Shape,
        label: str = WHOLE,
        *,
        whole: bool = True,
        limits: float = 0.0,
    ) -> None:
        self.client, self.label, self.whole, self._limits = client, label, whole, limits
        self._class, self._name = gpu_class, gpu_class.name
        gpus = {self._name: [f"GPU-{index}" for index in range(shape.gpus)]}
        site = Site(HOST, "replay", gpus)
        self._line = Line(
            client, by="replay", keep=KEEP, devices={self._name: shape.gpus}, site=site
        )
        self._turns = Turns(client, self._line)
        self._attempts: dict[int, ExecutorAttempt] = {}
        self._events = 0
        self.decisions, self.seconds = 0, 0.0
        client.flushdb()
        self.now = EPOCH
        self._line.open(self._name)

    def arrive(self, job: Job, now: float) -> list[Start]:
        """Take a message in."""
        self._at(now)
        name = str(job.number)
        record: Record = {
            "delivery": name,
            "id": name,
            "task": "replay.task",
            "gpu_class": self._name,
            "isolation": job.isolation,
            "priority": 3,
            "retries": 0,
        }
        if job.tenant:
            record["tenant"] = job.tenant
        if self._limits:
            record["time_limit"] = math.ceil(job.duration * self._limits)
        begun = time.perf_counter()
        granted = self._line.take_in(self._class, record, '{"body":"[]"}').granted
        return self._granted(granted, begun)

    def end(self, job: Job, now: float) -> list[Start]:
        """Report the end of a job, then free its slot."""
        self._at(now)
        executor = self._attempts.pop(job.number)
        executor.report("SUCCEEDED")
        executor.reported(KEEP)
        begun = time.perf_counter()
        released = self._line.release(
            self._class, executor.attempt, instance=_instance(executor.attempt)
        )
        if not released.freed or released.state != JobState.ENDED:
            raise RuntimeError(f"job {job.number} has not ended with its slot: {released}")
        starts = self._granted(released.granted, begun)
        self._events += 1
        return starts + (self.decide(now) if self._events % EVENTS_OF_A_TURN == 0 else [])

    def decide(self, now: float) -> list[Start]:
        """Take a turn of the watcher."""
        (turn,) = self._turns.take([self._class])
        if isinstance(turn, Exception):
            raise turn
        if turn.problems or turn.stopping or turn.finishing:
            raise RuntimeError(f"a turn found what no replay has: {turn}")
        return self._claimed(turn.granted)

    @property
    def rate(self) -> float:
        """Decisions per second: of the calls that take a message in or free a slot, as the caller
        sees them.
        """
        return self.decisions / self.seconds if self.seconds else 0.0

    def _at(self, now: float) -> None:
        if EPOCH + now != self.now:
            self.now = EPOCH + now

    def _granted(self, granted: Granted, begun: float) -> list[Start]:
        self.seconds += time.perf_counter() - begun
        self.decisions += 1
        starts = self._claimed(granted)
        while granted.more:
            granted = self._line.admit(self._class)
            starts += self._claimed(granted)
        return starts

    def _claimed(self, granted: Granted) -> list[Start]:
        starts = []
        for record in granted:
            attempt = Attempt.of(record)
            executor = ExecutorAttempt(self.client, attempt, record["token"])
            executor.claim(_instance(attempt), "replay")
            number = int(record["delivery"])
            self._attempts[number] = executor
            starts.append(Start(number, record["device"]))
        return starts


def _instance(attempt: Attempt) -> str:
    return f"{HOST}:{int(attempt.delivery) + 2}:{attempt.number}"
