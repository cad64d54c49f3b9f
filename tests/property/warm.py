"""Instances that ask for their next job, on the real store and on the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.states import JobState
from gpuqueue.store.attempts import WarmInstance
from gpuqueue.store.keys import class_key, class_keys
from tests.property.attempted import Attempted
from tests.property.entrance import CLASS, Process
from tests.property.model import ModelJob
from tests.property.model_pods import LEAVES_WITHIN, Pod


@dataclass(frozen=True)
class Given:
    """A job that the model gives: as it is, as it was in line, and what waited then."""

    job: ModelJob
    in_line: ModelJob
    lines: dict[str, list[ModelJob]]


class Warm(Attempted):
    """The verbs ``next`` and ``idle``."""

    def ask_next(
        self,
        process: Process,
        *,
        reuses: bool,
        loads_within: float | None = None,
        dies: str = "",
        instance: str = "",
        again: bool = False,
        stays: float | None = None,
        longest: float | None = None,
    ) -> Process | None:
        """The instance of a process asks. ``dies``: why its executor ended, if it has seen that;
        ``instance``: another one asks. Twice, if ``again``: its first answer is lost. ``stays``:
        it may wait, for a job whose limit is up to ``longest``.
        """
        self.announce()
        pod = self.pod_of(process, None if reuses else stays, longest)
        end = End(EndReason(dies), "gone") if dies else None
        asker = replace(process, instance=instance or process.instance)
        may = self._may_ask(asker, reuses, dies)
        first = self._first_cold(process, end) if may else None
        gpu = self.model.gpus.dealt.get((process.delivery, process.attempt))
        record = self._ask(asker, reuses, loads_within, end, pod)
        before = self.model.jobs.get(process.delivery)
        as_it_was = replace(before) if before else None
        given = self._given(asker, as_it_was, gpu, reuses, dies, pod) if may and as_it_was else None
        assert (record and record["delivery"]) == (given and given.job.delivery)
        if again:
            again_given = self._ask(asker, reuses, loads_within, end, pod)
            assert again_given == record, "an answer may be lost"
        if process.instance in self.model.pods.known and process not in self.waiters:
            self.waiters.append(process)
        if record is None or given is None or as_it_was is None:
            return None
        assert record["delivery"] == first, "a cold start would have started another job first"
        self.compare([record], [given.in_line], given.lines)
        started = self._goes_on(given.job, as_it_was, process, record, loads_within)
        self.processes.remove(process)
        self.processes.append(started)
        self.asked.append((process, started))
        return started

    def ask_late(self, number: int) -> None:
        """An old question comes once more: the answer is the same, or none."""
        process, given = self.asked[number % len(self.asked)]
        job = self.model.jobs.get(given.delivery)
        running = (
            job is not None
            and (job.attempt, job.instance) == (given.attempt, given.instance)
            and job.state == JobState.RUNNING
            and job.has_message
            and job.after == (process.delivery, process.attempt)
        )
        before = self.model.jobs.get(process.delivery)
        known = before and before.attempt == process.attempt and before.last
        same = bool(running and known == (given.delivery, given.attempt))
        holds = (process.delivery, process.attempt) in self.model.holders
        if holds and not same:
            return  # after a loss of Redis it is a new question
        record = self._ask(process, True, None, None)
        assert (record and record["token"]) == (given.token if same else None)

    def look(
        self, process: Process, *, leaves: bool = False, again: bool = False
    ) -> Process | None:
        """A pod that waits asks what it shall do; answers the process that it is from now on, with
        a job. Twice, if ``again``: its first answer is lost.
        """
        own = (process.delivery, process.attempt)
        first = process.first or own
        job = self.model.called(process.instance, first, own)
        pods, instance = self.model.pods, process.instance
        wanted = instance in pods.known and self.now < pods.terms_until
        if not job and (leaves or not wanted):
            pods.forget(instance)
        waits = not job and instance in pods.known
        if waits:
            pods.seen[instance] = self.now
        given = job if job and job.state == JobState.LAUNCHING else None
        for _ in range(2 if again else 1):
            answer = self.executor(process.told).called(
                process.instance, Attempt(CLASS, *first).holder, leaves=leaves
            )
            if isinstance(answer, bool):
                assert (given, answer) == (None, waits)
            else:
                assert given and (answer["delivery"], answer["token"]) == (
                    given.delivery,
                    given.token,
                )
        if not waits:
            self.waiters.remove(process)
        if not given:
            return None
        started = Process(
            *(given.delivery, given.attempt, given.token),
            *(process.instance, given.isolation, first),
            gpus=given.gpus,
        )
        self.processes.remove(process)
        self.processes.append(started)
        self.asked.append((process, started))
        return started

    def pods_that_wait(self) -> list[Process]:
        """Those that live, and those that have been told nothing yet first."""
        living = [each for each in self.waiters if each in self.processes]
        waiting = [each for each in living if each.instance in self.model.pods.until]
        return waiting or living

    def pod_of(
        self, process: Process, stays: float | None, longest: float | None
    ) -> tuple[Pod, float | None]:
        """The pod of a process, and for how long it waits."""
        job = self.model.jobs.get(process.delivery)
        tenant = job.tenant if job else ""
        own = (process.delivery, process.attempt)
        return Pod(own, process.isolation, tenant, longest, process.gpus), stays

    def _ask(
        self,
        process: Process,
        reuses: bool,
        loads_within: float | None,
        end: End | None,
        pod: tuple[Pod, float | None] | None = None,
    ) -> Record | None:
        longest, stays = (pod[0].longest, pod[1]) if pod else (None, None)
        told = WarmInstance(
            *(process.instance, "h", "", ""),
            loads_within=loads_within,
            longest=longest,
            stays=stays,
        )
        taken = self.executor(process.told).take_next(told, ended=end, reuses=reuses)
        return taken and taken[1]

    def _may_ask(self, process: Process, reuses: bool, dies: str) -> bool:
        job = self.model.jobs.get(process.delivery)
        holder = Attempt(CLASS, process.delivery, process.attempt).holder
        return bool(
            job
            and (job.attempt, job.instance) == (process.attempt, process.instance)
            and (not job.token or job.token == process.token)
            and (process.delivery, process.attempt) in self.model.holders
            and self.client.zscore(class_key(CLASS, "stopping"), holder) is None
            and (job.state == JobState.ENDED or (dies and not reuses))
            and self.model.first_of(job)
        )

    def _first_cold(self, process: Process, end: End | None) -> str | None:
        """What admission would start first if this attempt were released now, in the usual way."""
        keys = class_keys(CLASS)
        pipe = self.client.pipeline(transaction=False)
        for key in keys:
            pipe.copy(key, f"{key}:kept")
        copied = pipe.execute()
        self.client.delete(class_key(CLASS, "warm"), class_key(CLASS, "warm_until"))
        released = self.line.release(
            self.gpu_class,
            Attempt(CLASS, process.delivery, process.attempt),
            end or End(EndReason.INFRA, ""),
            process.instance,
        )
        for key, kept in zip(keys, copied, strict=True):
            pipe.delete(key)
            if kept:
                pipe.rename(f"{key}:kept", key)
        pipe.execute()
        return released.granted[0]["delivery"] if released.granted else None

    def _given(
        self,
        process: Process,
        before: ModelJob,
        gpu: int | None,
        reuses: bool,
        dies: str,
        asked: tuple[Pod, float | None],
    ) -> Given | None:
        """What the model gives. The slot is taken, or given back, and the pod may wait."""
        model, holder = self.model, (process.delivery, process.attempt)
        pod, stays = asked
        if gpu is not None and gpu >= model.rules.devices:
            return None
        if reuses:
            if gpu in model.gpus.failed:
                return None
            isolation, idle_at = model.holders.pop(holder), model.idle_at
            dealt = model.gpus.dealt.pop(holder, None)
            job = model.startable(self.now)
            suits = job and pod.suits(job.isolation, job.tenant, job.plan, job.gpus)
            good = job and suits and model.fits(job, before, gpu, reuses, self.now)
            model.holders[holder], model.idle_at = isolation, idle_at
            if dealt is not None:
                model.gpus.dealt[holder] = dealt
            if not good:
                return None
        reason = dies or "INFRA"
        self._released(model.jobs[process.delivery], holder, reason, reason == "INFRA")
        if not reuses:
            model.pods.forget(process.instance)
        job = model.startable(self.now)
        suits = job and pod.suits(job.isolation, job.tenant, job.plan, job.gpus)
        failed = not reuses and gpu in model.gpus.failed
        if job is None or failed or not suits or not model.fits(job, before, gpu, reuses, self.now):
            first = model.first_of(before)
            shares = model.in_use + len(model.pods.until)
            over = first and {first.state, before.state} == {JobState.ENDED}
            alone = not model.rules.devices and before.gpus == 1
            if stays and over and alone and shares < model.rules.shares:
                until = self.now + stays + LEAVES_WITHIN
                model.pods.wait(process.instance, pod, until, self.now)
            return None
        given = Given(job, replace(job), self.lines())
        model.start(job, self.now, gpu)
        if reuses:
            job.most, job.runs = min(job.reuse, before.allows), before.runs + 1
        return given

    def _goes_on(
        self,
        job: ModelJob,
        before: ModelJob,
        process: Process,
        record: Record,
        loads_within: float | None,
    ) -> Process:
        self.model.go_on(job, before)
        assert job.first
        assert (record["warm_turn"], record["state"]) == (job.turn, "running")
        self.begin(job, process.instance, loads_within)
        job.loading = True
        return Process(
            *(job.delivery, job.attempt, job.token),
            *(process.instance, job.isolation, job.first),
            gpus=job.gpus,
        )
