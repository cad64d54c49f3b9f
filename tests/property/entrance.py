"""The way into line, called on the real store and on the model; what they answer is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, delivery_name
from gpuqueue.model.record import Record
from gpuqueue.model.states import JobState
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import bell_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.property.model import Bounds, Model, ModelJob, Rules
from tests.support.model_time import Timed

CLASS = "t4"
MAX_ATTEMPTS = 2
KEEP = 1_000_000.0
START_TIMEOUT = 20.0


@dataclass(frozen=True)
class Told:
    """What a process is told by its environment."""

    attempt: Attempt
    token: str


@dataclass(frozen=True)
class Process:
    """An attempt's process: it lives until the schedule ends it."""

    delivery: str
    attempt: int
    token: str
    instance: str
    isolation: str
    first: tuple[str, int] | None = None
    """The attempt that it was started for, if it has gone on to others."""
    gpus: int = 1

    @property
    def told(self) -> Told:
        return Told(Attempt(CLASS, self.delivery, self.attempt), self.token)


class Entrance(Timed):
    """Accept, enqueue, admit; and everything that is kept beside the model."""

    def __init__(self, client: redis.Redis, rules: Rules) -> None:
        client.flushdb()
        self.client, self.model, self.bounds = client, Model(rules), Bounds()
        self.now = 1_000_000.0
        self.line = Line(client, by="d1", keep=KEEP, max_attempts=MAX_ATTEMPTS)
        self.line.open(CLASS)
        self.reader = Reader(client)
        self.line.devices = {CLASS: rules.devices}
        self.processes: list[Process] = []
        self.granted: list[Record] = []
        self.waiters: list[Process] = []
        """Pods that have been told to wait, and have not looked since they were told more."""
        self.asked: list[tuple[Process, Process]] = []
        """Instances that asked for their next job, and what they went on as."""
        self.tags: dict[str, str] = {}
        """Delivery → the tag of its message, which Redis may have lost."""
        self.ends: dict[str, int] = {}
        self.tokens: set[str] = set()
        self.revoked: set[str] = set()
        self.limits = {isolation: rules.slots(isolation) for isolation in ISOLATIONS}
        self.most_pods = rules.shares
        self.mixed = False
        self.redealt = False
        self._instances = self._tags = 0

    def new_tag(self) -> str:
        """What tells a message from all others."""
        self._tags += 1
        return f"tag {self._tags}"

    def executor(self, told: Told) -> ExecutorAttempt:
        return ExecutorAttempt(self.client, told.attempt, told.token)

    @property
    def gpu_class(self) -> GpuClass:
        rules = self.model.rules
        return GpuClass(
            CLASS,
            shared_slots=rules.shared_slots,
            exclusive_slots=rules.exclusive_slots,
            exclusive_patience=rules.exclusive_patience,
            shared_patience=rules.shared_patience,
        )

    def accept(self, job: ModelJob) -> str:
        """Store a delivery, not in line: as dispatchers of 0.1.0 do before they enqueue it."""
        record, again = self._record(job), self._again(job)
        answer = self.line.accept(CLASS, record, '{"body": "[]"}', again)
        self._accepted(job, answer, record["delivery"])
        return answer

    def take_in(self, job: ModelJob) -> None:
        """Store a delivery, and put it in line in the same step."""
        record, again = self._record(job), self._again(job)
        taken = self.line.take_in(self.gpu_class, record, '{"body": "[]"}', again)
        self._accepted(job, taken.outcome, record["delivery"])
        if taken.outcome == "accepted":
            self.model.enter(job, self.now)
            self.take(taken.granted)

    def _record(self, job: ModelJob) -> Record:
        record: dict[str, Any] = {
            "delivery": delivery_name(job.id, job.retries),
            "id": job.id,
            "isolation": job.isolation,
            "priority": job.priority,
        }
        record |= {"gpu_class": CLASS, "task": job.task, "retries": job.retries}
        optional = {"eta": job.eta, "expires": job.expires, "time_limit": job.time_limit}
        optional |= {"planned_limit": job.planned_limit}
        optional |= {"reuse": job.reuse or None, "warm": job.warm or None}
        record |= {"tenant": job.tenant} if job.tenant else {}
        record |= {"gpus": job.gpus} if job.gpus > 1 else {}
        record |= {"tag": job.tag} if job.tag else {}
        record |= {name: value for name, value in optional.items() if value is not None}
        return record  # type: ignore[return-value]

    def _again(self, job: ModelJob) -> str | None:
        return delivery_name(job.id, job.retries, tag=job.tag) if job.tag else None

    def _known(self, job: ModelJob) -> ModelJob | None:
        """The delivery of a message; None: no message like it has come. Names it otherwise."""
        job.delivery = delivery_name(job.id, job.retries)
        plain = self.model.jobs.get(job.delivery)
        if plain and not (plain.tag and job.tag and plain.tag != job.tag):
            return plain
        again = self._again(job) or ""
        known = self.model.jobs.get(again)
        job.delivery = again if plain or known else job.delivery
        return known

    def _hinders(self, job: ModelJob) -> str:
        plain = delivery_name(job.id, job.retries)
        if job.retries:
            newer = job.retries > self.model.retries_of(job.id)
            return "" if newer or plain not in self.model.jobs else "busy"
        known = plain in self.model.jobs or job.id in self.model.newest
        return self.model.hinders(job.id) if known else ""

    def _accepted(self, job: ModelJob, answer: str, delivery: str) -> None:
        known = self._known(job)
        assert delivery == job.delivery
        if known:
            assert answer == "known", "a delivery accepted twice is one job"
            known.has_message = known.has_message or known.state != JobState.ENDED
            return
        if hinders := self._hinders(job):
            assert answer == hinders, "a task runs once at a time"
            return
        if not job.retries:
            self.model.newest.pop(job.id, None)
        self.model.follows(job)
        self.model.jobs[job.delivery] = job
        self.tags[job.delivery] = job.tag
        if job.id in self.revoked:
            assert answer == "finishing", "a revoked task is not run when it comes"
            self.model.hand_over(job, "CANCELLED")
        else:
            assert answer == "accepted"

    def enqueue(self, delivery: str) -> None:
        job = self.model.jobs.get(delivery)
        granted = self.line.enqueue(self.gpu_class, delivery)
        if job and job.state == JobState.ACCEPTED:
            self.model.enter(job, self.now)
        self.take(granted)

    def admit(self) -> None:
        self.take(self.line.admit(self.gpu_class))

    def take(self, granted: list[Record]) -> None:
        """Compare what was started with the model's own decision, and see to the bounds."""
        lines, cold = self.lines(), iter(granted)
        started = self.model.admit(self.now)
        for job in lines[EXCLUSIVE]:
            if job.state == JobState.DELAYED:  # it was too large, and comes into line once more
                self.bounds.overtakers.pop(job.delivery, None)
        found = [self.called(job.delivery) or next(cold, None) for job in started]
        self.compare([*filter(None, found), *cold], started, lines)
        self.granted += granted

    def called(self, delivery: str) -> Record | None:
        """The record of a job that a waiting pod was given, by the model; None: it has none."""
        job = self.model.jobs[delivery]
        if not job.instance:
            return None
        record = self.reader.record(CLASS, delivery)
        assert record and record.get("instance") == job.instance, "the newest pod that fits has it"
        assert (record["state"], record["launched"]) == ("launching", self.now)
        holders = [each and Attempt(CLASS, *each).holder for each in (job.first, job.after)]
        assert [record["warm_of"], record["warm_after"]] == holders
        assert record["warm_turn"] == job.turn
        assert self.client.zcard(bell_key(CLASS, job.instance)) == 1, "it looks at once"
        return record

    def announce(self) -> None:
        """A dispatcher lives, and starts such instances."""
        self.line.announce([self.gpu_class], 60)
        self.model.pods.terms_until = self.now + 60

    def lines(self) -> dict[str, list[ModelJob]]:
        """The jobs in line, of isolations with slots."""
        return {
            each: self.model.waiting(each) if self.model.rules.slots(each) else []
            for each in ISOLATIONS
        }

    def compare(
        self,
        granted: list[Record],
        expected: list[ModelJob],
        lines: dict[str, list[ModelJob]],
    ) -> None:
        """``lines``: before these started."""
        assert [record["delivery"] for record in granted] == [job.delivery for job in expected]
        to_come = [job.delivery for job in expected]
        for record, job in zip(granted, expected, strict=True):
            to_come.remove(job.delivery)
            lines = {
                each: [
                    one
                    for one in lines[each]
                    if one.state == JobState.WAITING or one.delivery in to_come
                ]
                for each in ISOLATIONS
            }
            self.bounds.started(job, lines, self.model.rules)
            now_known = self.model.jobs[job.delivery]
            assert record["attempt"] == now_known.attempt
            dealt = self.model.gpus.dealt.get((record["delivery"], record["attempt"]))
            assert record.get("device") == dealt
            assert record["token"] not in self.tokens, "every attempt has a new token"
            self.tokens.add(record["token"])
            now_known.token, now_known.began = record["token"], self.now

    def end(self, job: ModelJob) -> None:
        self.model.end(job)
        if not job.reason:
            job.reason = job.outcome
        self.ends[job.delivery] = self.ends.get(job.delivery, 0) + 1

    def has_retry(self, job: ModelJob) -> bool:
        return self.model.retries_of(job.id) > job.retries
