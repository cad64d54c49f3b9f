"""What processes do to their attempts, called on the real store and on the model."""

from __future__ import annotations

from gpuqueue.errors import StaleAttempt
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.states import JobState
from gpuqueue.store.attempts import REPORT_TIMEOUT
from tests.property.entrance import (
    CLASS,
    KEEP,
    MAX_ATTEMPTS,
    START_TIMEOUT,
    Entrance,
    Process,
    Told,
)
from tests.property.model import HOLDING, ModelJob
from tests.property.model_places import AVOIDED


class Attempted(Entrance):
    """Launched, claim, report, reported, release."""

    def spawn(self, record: Record) -> Process:
        self._instances += 1
        made = Process(
            record["delivery"],
            record["attempt"],
            record["token"],
            f"h:{self._instances}:1",
            record["isolation"],
            gpus=record.get("gpus", 1),
        )
        self.processes.append(made)
        return made

    def launched(self, process: Process) -> bool:
        job = self.model.jobs.get(process.delivery)
        wanted = bool(job and job.state == JobState.LAUNCHING and job.attempt == process.attempt)
        attempt = Attempt(CLASS, process.delivery, process.attempt)
        assert self.line.launched(attempt, process.instance, START_TIMEOUT) == wanted
        if job and wanted:
            job.instance, job.deadline = process.instance, self.now + START_TIMEOUT
            job.began = self.now
        return wanted

    def claim(self, process: Process, told: Told, loads_within: float | None = None) -> bool:
        job = self.model.jobs.get(process.delivery)
        current = bool(
            job and told.attempt.number == job.attempt and job.token and told.token == job.token
        )
        mine = bool(
            job
            and job.claimed
            and job.instance == process.instance
            and job.state == JobState.RUNNING
        )
        free = bool(job and job.state == JobState.LAUNCHING)
        expected = bool(
            job
            and current
            and (free or mine)
            and not job.cancelled
            and not job.timed_out
            and job.has_message
        )
        try:
            record, _ = self.executor(told).claim(process.instance, "w", loads_within)
        except StaleAttempt:
            assert not expected
            return False
        assert expected and job
        assert record["token"] == told.token
        if free:
            self.begin(job, process.instance, loads_within)
        elif job.loading and loads_within:
            limit = job.started + job.time_limit if job.time_limit else float("inf")
            job.deadline = min(limit, self.now + loads_within)
        return True

    def begin(self, job: ModelJob, instance: str, loads_within: float | None) -> None:
        """An instance has claimed the latest attempt of a job."""
        job.move(JobState.RUNNING)
        job.instance, job.claimed = instance, True
        clocks = [each for each in (job.time_limit, loads_within) if each]
        job.deadline = self.now + min(clocks) if clocks else None
        job.started, job.loaded = self.now, loads_within is None
        short = job.time_limit and loads_within and job.time_limit <= loads_within
        job.loading = loads_within is not None and not short

    def loaded(
        self, process: Process, told: Told, limit: float | None, if_lost: str | None = None
    ) -> bool:
        job = self.model.jobs.get(process.delivery)
        current = bool(
            job and told.attempt.number == job.attempt and job.token and told.token == job.token
        )
        expected = bool(current and job and job.state == JobState.RUNNING and not job.timed_out)
        assert self.executor(told).loaded(limit, if_lost=if_lost) == expected
        if job and expected:
            job.loaded, job.time_limit = True, limit or job.time_limit
            job.loading, job.if_lost, job.planned_limit = False, if_lost or "", None
            job.deadline = job.started + job.time_limit if job.time_limit else None
        return expected

    def _recall(self, job: ModelJob) -> None:
        """The process that shows the token has claimed it, though the store has lost that."""
        if job.state == JobState.LAUNCHING:
            job.move(JobState.RUNNING)
            job.claimed, job.timed_out, job.started = True, "", job.began
            job.deadline = job.started + job.time_limit if job.time_limit else None

    def report(self, process: Process, told: Told, outcome: str) -> bool:
        job = self.model.jobs.get(process.delivery)
        current = bool(
            job and told.attempt.number == job.attempt and job.token and told.token == job.token
        )
        unclaimed = bool(job and job.state == JobState.LAUNCHING)
        running = bool(
            job
            and not job.cancelled
            and (unclaimed or (job.state == JobState.RUNNING and not job.timed_out))
        )
        again = bool(job and job.state == JobState.REPORTING and job.outcome == outcome)
        try:
            self.executor(told).report(outcome)
        except StaleAttempt:
            assert not (current and (running or again))
            return False
        assert job and current and (running or again), (
            "a stale or unwanted attempt may write nothing"
        )
        self._recall(job)
        if running:
            job.move(JobState.REPORTING)
            job.outcome, job.deadline = outcome, self.now + REPORT_TIMEOUT
        return True

    def reported(self, process: Process, told: Told) -> bool:
        job = self.model.jobs.get(process.delivery)
        current = bool(
            job and told.attempt.number == job.attempt and job.token and told.token == job.token
        )
        reports = bool(current and job and job.state == JobState.REPORTING)
        expected = bool(reports and job and job.outcome != "REQUEUED")
        assert self.executor(told).reported(KEEP) == expected
        if job and expected:
            self.end(job)
        return expected

    def release(
        self,
        delivery: str,
        attempt: int,
        instance: str,
        reason: str,
        again: bool,
        blames: str = "",
    ) -> None:
        answer = self.line.release(
            self.gpu_class,
            Attempt(CLASS, delivery, attempt),
            End(EndReason(reason), "gone", blames=blames),
            instance,
        )
        if instance:
            self.model.pods.forget(instance)
        first = self.model.jobs.get(delivery)
        if first and first.last and (first.attempt, first.instance) == (attempt, instance):
            delivery, attempt = first.last
        assert answer.attempt == Attempt(CLASS, delivery, attempt)
        job = self.model.jobs.get(delivery)
        current = job is not None and job.attempt == attempt
        beside = bool(current and job and job.instance and job.instance != instance)
        if beside and job:
            assert (answer.freed, answer.state, answer.granted) == (False, job.state, [])
            return
        assert answer.freed == ((delivery, attempt) in self.model.holders), (
            "a slot is freed by its holder's name, once"
        )
        self._released(job if current else None, (delivery, attempt), reason, again, blames)
        assert answer.state == (job.state if job else "")
        self.take(answer.granted)

    def _released(
        self,
        job: ModelJob | None,
        holder: tuple[str, int],
        reason: str,
        again: bool,
        blames: str = "",
    ) -> None:
        """``job``: that of the holder, if the attempt is its latest."""
        self.model.holders.pop(holder, None)
        gpu = self.model.gpus.dealt.pop(holder, None)
        if job and gpu is not None:
            if (job.outcome or job.reason) == "SUCCEEDED":
                self.model.gpus.succeed(gpu, holder)
            elif blames and job.state == JobState.RUNNING:
                self._gpu_fails(job, gpu)
        if job and job.state in HOLDING:
            self._after(job, reason, again)

    def _gpu_fails(self, job: ModelJob, gpu: int) -> None:
        if job.cancelled or job.timed_out == "run":
            return
        job.avoid = (gpu, *(each for each in job.avoid if each != gpu))[:AVOIDED]
        holder = (job.delivery, job.attempt)
        for name in self.model.gpus.fail(gpu, job.id, job.delivery, holder, self.now):
            spared = self.model.jobs.get(name)
            if spared and spared.state not in (JobState.ENDED, JobState.FINISHING):
                spared.spared += 1

    def _after(self, job: ModelJob, reason: str, again: bool) -> None:
        """What becomes of a job whose executor did not confirm its end."""
        reporting, unclaimed = job.state == JobState.REPORTING, job.state == JobState.LAUNCHING
        # Never claimed: the code of the job is not at fault, with any status of its process.
        blameless = unclaimed and (reason == "ERROR" or job.timed_out == "start")
        died = job.loading and job.state == JobState.RUNNING and reason == "ERROR"
        if job.timed_out == "load" or died:  # the code of its task never ran
            reason, again = "INFRA", True
        if job.claimed and self.has_retry(job):
            again = unclaimed = False
        due = (again and not reporting) or (unclaimed and reason != "BAD_SPEC")
        rejected = reporting and job.outcome == "REQUEUED"
        lost = job.if_lost and job.state == JobState.RUNNING and reason == "ERROR"
        lost = lost and job.losses + 1 < MAX_ATTEMPTS and not self.has_retry(job)
        if job.cancelled and not reporting:
            self.model.hand_over(job, "CANCELLED")
        elif job.timed_out == "run":
            self.model.hand_over(job, "TIME_LIMIT")
        elif (rejected or lost) and job.has_message and job.id in self.revoked:
            job.outcome = ""
            self.model.hand_over(job, "CANCELLED")
        elif (rejected or lost) and job.has_message:
            job.spared += 1
            job.requeues, job.losses = job.requeues + rejected, job.losses + (not rejected)
            self._delay(job, job.requeues if rejected else job.losses)
        elif due and job.attempt - job.spared < MAX_ATTEMPTS and job.has_message:
            self._delay(job, job.attempt)
        else:
            self.model.hand_over(job, "INFRA" if blameless else reason)

    def _delay(self, job: ModelJob, before: int) -> None:
        """The pause before its next attempt, after so many."""
        job.move(JobState.DELAYED)
        job.eta = job.due = self.now + min(60, 2 ** (before - 1))
        job.token, job.instance, job.timed_out, job.outcome, job.if_lost = "", "", "", "", ""
        job.claimed, job.deadline = False, None
        job.turn, job.runs, job.most = 1, 1, None
        job.first, job.after, job.last = None, None, None
