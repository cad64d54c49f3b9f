"""The real store beside the model: every verb is called on both, and what they answer is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from gpuqueue.classes import GpuClass
from gpuqueue.errors import StaleAttempt
from gpuqueue.job import Record
from gpuqueue.names import ISOLATIONS, delivery_name
from gpuqueue.states import JobState
from gpuqueue.store.attempts import REPORT_TIMEOUT, Attempt, Attempts
from gpuqueue.store.line import Line
from gpuqueue.store.read import Reader
from tests.property.model import HOLDING, IN_LINE, Bounds, Model, ModelJob, Rules

CLASS = "t4"
MAX_ATTEMPTS = 2
KEEP = 1000.0
START_TIMEOUT = 20.0


@dataclass(frozen=True)
class Process:
    """An attempt's process: it lives until the schedule ends it."""

    delivery: str
    attempt: int
    token: str
    instance: str
    isolation: str

    @property
    def told(self) -> Attempt:
        return Attempt(CLASS, self.delivery, self.attempt, self.token)


class World:
    """One class, its processes, and the clock."""

    def __init__(self, client: redis.Redis, rules: Rules) -> None:
        client.flushdb()
        self.client, self.model, self.bounds = client, Model(rules), Bounds()
        self.now = 1_000_000.0
        self.line = Line(client, by="d1", keep=KEEP, max_attempts=MAX_ATTEMPTS, clock=lambda: self.now)
        self.attempts = Attempts(client, clock=lambda: self.now)
        self.reader = Reader(client)
        self.line.devices = {CLASS: rules.devices}
        self.processes: list[Process] = []
        self.granted: list[Record] = []
        self.ends: dict[str, int] = {}
        self.tokens: set[str] = set()
        self.revoked: set[str] = set()
        self.limits = {isolation: rules.slots(isolation) for isolation in ISOLATIONS}
        self.mixed = False
        self.redealt = False
        self._instances = 0

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

    # -- in -------------------------------------------------------------------------------------------------------

    def accept(self, job: ModelJob) -> str:
        record: dict[str, Any] = {"delivery": job.delivery, "id": job.id, "isolation": job.isolation, "priority": job.priority}
        record |= {"gpu_class": CLASS, "task": "t", "retries": job.retries, "created": self.now}
        optional = {"eta": job.eta, "expires": job.expires, "time_limit": job.time_limit}
        record |= {name: value for name, value in optional.items() if value is not None}
        answer = self.line.accept(CLASS, record, '{"body": "[]"}')  # type: ignore[arg-type]
        if job.delivery in self.model.jobs:
            assert answer == "known", "a delivery accepted twice is one job"
            return answer
        self.model.jobs[job.delivery] = job
        if job.id in self.revoked:
            assert answer == "finishing", "a revoked task is not run when it comes"
            self.model.hand_over(job, "CANCELLED")
        else:
            assert answer == "accepted"
        return answer

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
        lines = {each: self.model.waiting(each) if self.model.rules.slots(each) else [] for each in ISOLATIONS}
        expected = self.model.admit(self.now)
        assert [record["delivery"] for record in granted] == [job.delivery for job in expected]
        to_come = [job.delivery for job in expected]
        for record, job in zip(granted, expected, strict=True):
            to_come.remove(job.delivery)
            lines = {
                each: [one for one in lines[each] if one.state == JobState.WAITING or one.delivery in to_come]
                for each in ISOLATIONS
            }
            self.bounds.started(job, lines, self.model.rules)
            now_known = self.model.jobs[job.delivery]
            assert record["attempt"] == now_known.attempt
            assert record["token"] not in self.tokens, "every attempt has a token of its own"
            self.tokens.add(record["token"])
            now_known.token = record["token"]
        self.granted += granted

    # -- processes ------------------------------------------------------------------------------------------------

    def spawn(self, record: Record) -> Process:
        self._instances += 1
        made = Process(record["delivery"], record["attempt"], record["token"], f"h:{self._instances}:1", record["isolation"])
        self.processes.append(made)
        return made

    def launched(self, process: Process) -> bool:
        job = self.model.jobs.get(process.delivery)
        wanted = bool(job and job.state == JobState.LAUNCHING and job.attempt == process.attempt)
        record: Record = {"delivery": process.delivery, "attempt": process.attempt, "gpu_class": CLASS}
        assert self.line.launched(record, process.instance, START_TIMEOUT) == wanted
        if job and wanted:
            job.instance, job.deadline = process.instance, self.now + START_TIMEOUT
        return wanted

    def claim(self, process: Process, told: Attempt) -> bool:
        job = self.model.jobs.get(process.delivery)
        current = bool(job and told.number == job.attempt and job.token and told.token == job.token)
        mine = bool(job and job.claimed and job.instance == process.instance and job.state == JobState.RUNNING)
        free = bool(job and job.state == JobState.LAUNCHING)
        expected = bool(job and current and (free or mine) and not job.cancelled and not job.timed_out and job.has_message)
        try:
            record, _ = self.attempts.claim(told, process.instance, "w")
        except StaleAttempt:
            assert not expected
            return False
        assert expected and job
        assert record["token"] == told.token
        if free:
            job.move(JobState.RUNNING)
            job.instance, job.claimed = process.instance, True
            job.deadline = self.now + job.time_limit if job.time_limit else None
        return True

    def report(self, process: Process, told: Attempt, outcome: str) -> bool:
        job = self.model.jobs.get(process.delivery)
        current = bool(job and told.number == job.attempt and job.token and told.token == job.token)
        running = bool(job and job.state == JobState.RUNNING and not job.cancelled and not job.timed_out)
        again = bool(job and job.state == JobState.REPORTING and job.outcome == outcome)
        try:
            self.attempts.report(told, outcome)
        except StaleAttempt:
            assert not (current and (running or again))
            return False
        assert job and current and (running or again), "a stale or unwanted attempt may write nothing"
        if running:
            job.move(JobState.REPORTING)
            job.outcome, job.deadline = outcome, self.now + REPORT_TIMEOUT
        return True

    def reported(self, process: Process, told: Attempt) -> bool:
        job = self.model.jobs.get(process.delivery)
        current = bool(job and told.number == job.attempt and job.token and told.token == job.token)
        expected = bool(current and job and job.state == JobState.REPORTING)
        assert self.attempts.reported(told, KEEP) == expected
        if job and expected:
            self.end(job)
        return expected

    def release(self, delivery: str, attempt: int, instance: str, reason: str, again: bool) -> None:
        job = self.model.jobs.get(delivery)
        current = job is not None and job.attempt == attempt
        beside = bool(current and job and job.instance and job.instance != instance)
        answer = self.line.release(
            self.gpu_class,
            delivery,
            attempt,
            instance=instance,
            reason=reason,
            error="gone",
            again=again,  # type: ignore[arg-type]
        )
        if beside and job:
            assert (answer.freed, answer.state, answer.granted) == (False, job.state, [])
            return
        assert answer.freed == ((delivery, attempt) in self.model.holders), "a slot is freed by its holder's name, once"
        self.model.holders.pop((delivery, attempt), None)
        if current and job and job.state in HOLDING:
            self._after(job, reason, again)
        assert answer.state == (job.state if job else "")
        self.take(answer.granted)

    def _after(self, job: ModelJob, reason: str, again: bool) -> None:
        """What becomes of a job whose executor did not confirm its end."""
        reporting, unclaimed = job.state == JobState.REPORTING, job.state == JobState.LAUNCHING
        due = (again and not reporting) or (unclaimed and reason != "BAD_SPEC")
        if job.cancelled and not reporting:
            self.model.hand_over(job, "CANCELLED")
        elif job.timed_out == "run":
            self.model.hand_over(job, "TIME_LIMIT")
        elif due and job.attempt < MAX_ATTEMPTS and job.has_message:
            job.move(JobState.DELAYED)
            job.eta, job.token, job.instance, job.timed_out, job.claimed = self.now + 1, "", "", "", False
            job.deadline = None
        else:
            self.model.hand_over(job, reason)

    # -- ends -----------------------------------------------------------------------------------------------------

    def cancel(self, job_id: str, terminate: bool) -> None:
        answer = self.line.cancel(CLASS, job_id, terminate=terminate)
        deliveries = [job for job in self.model.jobs.values() if job.id == job_id]
        job = max(deliveries, key=lambda each: each.retries, default=None)
        if job is None or (job.state == JobState.ENDED and job.reason == "RETRIED"):
            expected = "unknown"
        elif job.state == JobState.ENDED:
            expected = "ended"
        elif job.state in (JobState.FINISHING, JobState.REPORTING):
            expected = "finishing"
        elif job.state == JobState.RUNNING and not terminate:
            expected = "running"
        elif job.state in IN_LINE:
            expected = "cancelled"
            self.model.hand_over(job, "CANCELLED")
        else:
            expected, job.cancelled = "stopping", True
        assert answer == expected
        if expected != "ended":
            self.revoked.add(job_id)

    def finish_claim(self, delivery: str, finisher: str, lease: float) -> None:
        job = self.model.jobs.get(delivery)
        answer, record, _ = self.line.finish_claim(CLASS, delivery, finisher, lease)
        if not job or job.state != JobState.FINISHING:
            assert answer == "not finishing"
        elif job.finisher and job.finisher != finisher and job.lease_until > self.now:
            assert answer == "busy"
        elif job.outcome == "RETRIED" or (job.reason != "CANCELLED" and job.claimed and self._has_retry(job)):
            assert answer == "superseded"
            job.reason = "RETRIED"
            self.end(job)
        else:
            assert answer == "ok" and record and record["reason"] == job.reason
            job.finisher, job.lease_until = finisher, self.now + lease

    def finished(self, delivery: str, finisher: str) -> None:
        job = self.model.jobs.get(delivery)
        expected = bool(job and job.state == JobState.FINISHING and job.finisher == finisher)
        assert self.line.finished(CLASS, delivery, finisher, job.reason if job else "ERROR") == expected
        if job and expected:
            self.end(job)

    def end(self, job: ModelJob) -> None:
        self.model.end(job)
        if not job.reason:
            job.reason = job.outcome
        self.ends[job.delivery] = self.ends.get(job.delivery, 0) + 1

    def _has_retry(self, job: ModelJob) -> bool:
        return any(each.id == job.id and each.retries > job.retries for each in self.model.jobs.values())

    # -- clock and catastrophe --------------------------------------------------------------------------------------

    def tick(self) -> None:
        self.line.tick(CLASS)
        jobs = list(self.model.jobs.values())
        for job in jobs:
            if job.state in (JobState.DELAYED, JobState.WAITING) and job.expires is not None and job.expires <= self.now:
                self.model.hand_over(job, "EXPIRED")
        due = [job for job in jobs if job.state == JobState.DELAYED and job.eta is not None and job.eta <= self.now]
        for job in sorted(due, key=lambda each: (each.eta, each.delivery)):
            self.model.enter(job, self.now)
        for job in jobs:
            if job.deadline is not None and job.deadline <= self.now and job.state in HOLDING:
                job.timed_out = {"launching": "start", "running": "run", "reporting": "report"}[job.state]
                job.deadline = None

    def lose_redis(self) -> None:
        """Everything in Redis is gone; the processes run on."""
        self.client.flushdb()
        self.model = Model(self.model.rules)
        self.bounds = Bounds()
        self.ends, self.revoked, self.granted = {}, set(), []

    def adopt(self, process: Process) -> bool:
        labels: Record = {"delivery": process.delivery, "attempt": process.attempt, "token": process.token}
        labels |= {"isolation": process.isolation, "gpu_class": CLASS, "instance": process.instance}  # type: ignore[typeddict-item]
        labels |= {"id": process.delivery.partition("~")[0]}  # type: ignore[typeddict-item]
        known = self.model.jobs.get(process.delivery)
        answer = self.line.adopt(CLASS, labels)
        if known:
            same = known.attempt == process.attempt and known.token == process.token
            assert answer == bool(same and (process.delivery, process.attempt) in self.model.holders)
            return answer
        assert answer
        job = ModelJob(labels["id"], process.delivery, process.isolation, attempt=process.attempt, token=process.token)
        job.retries = int(process.delivery.partition("~")[2] or 0)
        job.state, job.instance, job.claimed, job.has_message = JobState.RUNNING, process.instance, True, False
        self.model.jobs[job.delivery] = job
        self.model.holders[job.delivery, job.attempt] = job.isolation
        self._excuse()
        self.redealt = True  # its GPU is not in the model
        return True

    def reconfigure(self, rules: Rules) -> None:
        self.model.rules = rules
        self.line.devices = {CLASS: rules.devices}
        if not rules.exclusive_slots:
            self.bounds.overtakers.clear()
        self._excuse()

    def _excuse(self) -> None:
        """What already holds a slot stays, though it be more, or beside others, than would be let in now."""
        held = {isolation: self.model.held(isolation) for isolation in ISOLATIONS}
        self.limits = {each: max(self.model.rules.slots(each), held[each]) for each in ISOLATIONS}
        self.mixed = all(held.values())

    def retry_of(self, job: ModelJob) -> ModelJob:
        return ModelJob(job.id, delivery_name(job.id, job.retries + 1), job.isolation, job.priority, job.retries + 1)

    def close(self) -> None:
        """Leave Redis empty for the next schedule."""
        self.client.flushdb()
