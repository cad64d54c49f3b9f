"""The real store beside the model: every verb is called on both, and their answers are compared."""

from __future__ import annotations

from gpuqueue.model.names import ISOLATIONS, delivery_name
from gpuqueue.model.record import Record
from gpuqueue.model.states import JobState
from gpuqueue.store.finishes import FREE_FOR
from gpuqueue.store.keys import class_key
from tests.property.entrance import CLASS, Process
from tests.property.model import HOLDING, IN_LINE, Bounds, Model, ModelJob, Rules
from tests.property.warm import Warm


class World(Warm):
    """One class, its processes, and the clock: cancel, finish, tick, adopt."""

    def cancel(self, job_id: str, terminate: bool) -> None:
        answer = self.line.cancel(CLASS, job_id, terminate=terminate)
        deliveries = [job for job in self.model.jobs.values() if job.id == job_id]
        job = self.model.newest_of(job_id)
        for older in deliveries:
            if older is not job and older.state in IN_LINE:
                self.model.hand_over(older, "CANCELLED")
            elif older is not job and (
                older.state == JobState.LAUNCHING or (older.state == JobState.RUNNING and terminate)
            ):
                older.cancelled = True
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
        elif job.outcome == "RETRIED" or (
            job.reason != "CANCELLED" and job.claimed and self.has_retry(job)
        ):
            assert answer == "superseded"
            job.reason = "RETRIED"
            self.end(job)
        else:
            assert answer == "ok" and record and record["reason"] == job.reason
            kept = job.lease_until if job.finisher == finisher else 0.0
            job.finisher, job.lease_until = finisher, max(kept, self.now + lease)

    def begin_finish(self, delivery: str, finisher: str, lease: float) -> None:
        """The same, for a try that counts."""
        job = self.model.jobs.get(delivery)
        answer, record, _ = self.line.finish_claim(CLASS, delivery, finisher, lease, begins=True)
        if answer != "ok":
            if answer == "superseded" and job:
                job.reason = "RETRIED"
                self.end(job)
            return
        assert job and record and job.state == JobState.FINISHING
        kept = job.lease_until if job.finisher == finisher else 0.0
        job.finisher, job.lease_until = finisher, max(kept, self.now + lease)
        job.finishes += 1
        assert record["finishes"] == job.finishes

    def finish_failed(self, delivery: str, finisher: str, passing: bool) -> None:
        job = self.model.jobs.get(delivery)
        told = self.line.finish_failed(CLASS, delivery, finisher, "no callback", passing=passing)
        if not (job and finisher and job.state == JobState.FINISHING and job.finisher == finisher):
            assert told is None
            return
        assert told
        if passing:
            job.finish_waits = job.finish_waits or self.now
            waited = self.now - job.finish_waits
            job.finishes -= waited < FREE_FOR and job.finishes > 0
            pause = min(30, max(1, waited))
        else:
            job.finish_waits, waited = 0.0, 0.0
            pause = min(60, 2 ** max(0, job.finishes - 1))
        assert told == (job.finishes, int(waited))
        job.finisher, job.lease_until = "a failed one", self.now + pause

    def finished(self, delivery: str, finisher: str) -> None:
        job = self.model.jobs.get(delivery)
        expected = bool(job and job.state == JobState.FINISHING and job.finisher == finisher)
        assert (
            self.line.finished(CLASS, delivery, finisher, job.reason if job else "ERROR")
            == expected
        )
        if job and expected:
            self.end(job)

    # -- clock and catastrophe ---------------------------------------------------------------------

    def tick(self) -> None:
        self.line.tick(CLASS)
        jobs = list(self.model.jobs.values())
        for job in jobs:
            if (
                job.state in (JobState.DELAYED, JobState.WAITING)
                and job.expires is not None
                and job.expires <= self.now
            ):
                self.model.hand_over(job, "EXPIRED")
        due = [job for job in jobs if job.state == JobState.DELAYED and job.due <= self.now]
        for job in sorted(due, key=lambda each: (each.due, each.delivery)):
            self.model.enter(job, self.now)
        self.model.gpus.forget(self.now, self.model.running())
        self.model.pods.tick(self.now)
        for job in jobs:
            if job.deadline is not None and job.deadline <= self.now and job.state in HOLDING:
                words = {"launching": "start", "running": "run", "reporting": "report"}
                loads = job.state == JobState.RUNNING and (
                    not job.time_limit or job.deadline < job.started + job.time_limit
                )
                job.timed_out = "load" if loads else words[job.state]
                job.deadline = None

    def lose_redis(self) -> None:
        """Everything in Redis is gone; the processes run on, and all are adopted before the class
        opens.
        """
        self.client.flushdb()
        self.now = self._now
        self.model = Model(self.model.rules)
        self.bounds = Bounds()
        self.ends, self.revoked, self.granted, self.asked = {}, set(), [], []
        for process in self.processes:
            self.adopt(process)
        self.line.open(CLASS)

    def adopt(self, process: Process) -> bool:
        labels: Record = {
            "delivery": process.delivery,
            "attempt": process.attempt,
            "token": process.token,
        }
        labels |= {"isolation": process.isolation, "gpu_class": CLASS, "instance": process.instance}
        name, _, counts = process.delivery.partition("~")
        labels |= {"id": name, "retries": int(counts.partition("+")[0] or 0)}
        if process.gpus > 1:
            labels["gpus"] = process.gpus
        known = self.model.jobs.get(process.delivery)
        answer = self.line.adopt(CLASS, labels)
        if known:
            same = known.attempt == process.attempt and known.token == process.token
            assert answer == bool(
                same and (process.delivery, process.attempt) in self.model.holders
            )
            return answer
        assert answer
        job = ModelJob(
            labels["id"],
            process.delivery,
            process.isolation,
            attempt=process.attempt,
            token=process.token,
            gpus=process.gpus,
        )
        job.retries, job.started = labels["retries"], self.now
        job.state, job.instance, job.claimed, job.has_message = (
            JobState.RUNNING,
            process.instance,
            True,
            False,
        )
        self.model.follows(job)
        self.model.jobs[job.delivery] = job
        self.model.holders[job.delivery, job.attempt] = job.isolation
        self.model.pods.forget(process.instance)
        self._excuse()
        self.redealt = True  # its GPU is not in the model
        return True

    def reconfigure(self, rules: Rules) -> None:
        self.model.rules = rules
        self.line.devices = {CLASS: rules.devices}
        if not rules.exclusive_slots:
            self.bounds.overtakers.clear()
            self.bounds.idle_at = None
        self._excuse()

    def _excuse(self) -> None:
        """What already holds a slot stays, though it be more, or beside others, than would be let
        in now.
        """
        held = {isolation: self.model.held(isolation) for isolation in ISOLATIONS}
        self.limits = {each: max(self.model.rules.slots(each), held[each]) for each in ISOLATIONS}
        self.most_pods = max(self.model.rules.shares, self._pods())
        self.mixed = all(held.values())

    def _pods(self) -> int:
        return self.model.in_use + len(self.model.pods.until)

    def lose_pods(self, *names: str) -> None:
        """Redis loses what it knows of pods that wait, or only what they can run."""
        self.client.delete(*(class_key(CLASS, name) for name in names))
        self.model.pods.known.clear()
        if "warm_until" in names:
            self.model.pods.until.clear()

    def send_away(self, most: int) -> None:
        assert self.line.send_away([CLASS], most) == self.model.pods.send_away(most)

    def retry_of(self, job: ModelJob) -> ModelJob:
        return ModelJob(
            job.id,
            delivery_name(job.id, job.retries + 1),
            job.isolation,
            job.priority,
            job.retries + 1,
            tag=self.new_tag(),
            gpus=job.gpus,
        )

    def close(self) -> None:
        """Leave Redis empty for the next schedule."""
        self.client.flushdb()
