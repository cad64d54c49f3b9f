"""Random schedules: any verb at any time, by anybody, with any process dying in between."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TypeVar

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS
from gpuqueue.model.states import JobState
from tests.property.checks import check
from tests.property.drain import drain
from tests.property.entrance import CLASS, Process, Told
from tests.property.model import ModelJob, Rules
from tests.property.world import World

patience = st.integers(1, 3)
index = st.integers(0, 1_000)
maybe_seconds = st.none() | st.integers(0, 20)


@st.composite
def some_rules(draw: st.DrawFn) -> Rules:
    shared, devices = draw(st.integers(0, 4)), draw(st.sampled_from([0, 0, 0, 1, 2, 3]))
    most = min(3, devices) if devices else 3
    return Rules(shared, draw(st.integers(0, most)), draw(patience), draw(patience), devices)


T = TypeVar("T")


class Schedule(RuleBasedStateMachine):
    """See :mod:`tests.property.world` for what each verb is compared with."""

    redis_client: redis.Redis

    @initialize(rules=some_rules(), pods=st.integers(0, 4), isolation=st.sampled_from(ISOLATIONS))
    def begin(self, rules: Rules, pods: int, isolation: str) -> None:
        self.world = World(self.redis_client, rules)
        self.count = 0
        if pods:  # of jobs that have run, one beside the other
            self.submit_several(isolation, pods)
            self.pods_run_all_and_wait(isolation, 0, 20, 100, None, 0, False)

    def one(self, things: list[T], number: int) -> T:
        return things[number % len(things)]

    def some_process(self, number: int) -> Process:
        """Any process; three times in four one whose attempt is its job's, if there is one."""
        jobs, processes = self.world.model.jobs, self.world.processes
        likely = [
            each
            for each in processes
            if each.delivery in jobs and jobs[each.delivery].token == each.token
        ]
        return self.one(likely if likely and number % 4 else processes, number // 4)

    def some_job(self, number: int, *states: JobState) -> ModelJob:
        """Any job; three times in four one of these states, if there is one."""
        jobs = list(self.world.model.jobs.values())
        likely = [job for job in jobs if job.state in states]
        return self.one(likely if likely and number % 4 else jobs, number // 4)

    # -- in and in line ----------------------------------------------------------------------------

    @rule(
        isolation=st.sampled_from(ISOLATIONS),
        priority=st.sampled_from([3, 3, 3, 0, 9]),
        eta=maybe_seconds,
        expires=maybe_seconds,
        limit=maybe_seconds,
        # Without tenants: test_tenants.py has schedules of these.
        kind=st.sampled_from([("", 0), ("", 3), ("", 9), ("", 2)]),
        warm=st.sampled_from([0, 60]),
        enqueue=st.sampled_from([True, True, True, False]),
        gpus=st.sampled_from([1, 1, 2, 3]),
    )
    def submit(
        self,
        isolation: str,
        priority: int,
        eta: int | None,
        expires: int | None,
        limit: int | None,
        kind: tuple[str, int],
        warm: float,
        enqueue: bool,
        gpus: int = 1,
    ) -> None:
        world, name = self.world, f"j{self.count}"
        self.count += 1
        times = [world.now + seconds if seconds is not None else None for seconds in (eta, expires)]
        job = ModelJob(
            name,
            name,
            isolation,
            priority,
            eta=times[0],
            expires=times[1],
            tag=world.new_tag(),
            time_limit=limit or None,
            tenant=kind[0],
            reuse=kind[1],
            warm=warm,
            # The model deals one GPU to a job: test_several_gpus.py has machines that deal more.
            gpus=gpus if isolation == EXCLUSIVE and not world.model.rules.devices else 1,
        )
        if enqueue:
            world.take_in(job)
        else:
            world.accept(job)

    @rule(isolation=st.sampled_from(ISOLATIONS), number=st.integers(2, 6))
    def submit_several(self, isolation: str, number: int) -> None:
        for _ in range(number):
            self.submit(isolation, 3 * (number % 2), None, None, None, ("", 3), 60, True)

    @precondition(lambda self: self.world.model.jobs)
    @rule(number=index)
    def deliver_again(self, number: int) -> None:
        job = self.some_job(number)
        self.world.accept(replace(job, tag=self.world.tags[job.delivery]))

    @precondition(lambda self: self.world.model.jobs)
    @rule(number=index, tagged=st.sampled_from([True, True, True, False]))
    def id_is_sent_again(self, number: int, tagged: bool) -> None:
        world, known = self.world, self.some_job(number, JobState.ENDED)
        tag = world.new_tag() if tagged else ""
        again = ModelJob(known.id, known.delivery, known.isolation, known.priority, tag=tag)
        world.take_in(replace(again, gpus=known.gpus))

    @precondition(lambda self: self.world.model.jobs)
    @rule(number=index)
    def task_sends_a_retry(self, number: int) -> None:
        job = self.some_job(number, JobState.RUNNING)
        if job.state == JobState.RUNNING:
            self.world.take_in(self.world.retry_of(job))

    @precondition(lambda self: self.world.model.jobs)
    @rule(number=index)
    def enqueue(self, number: int) -> None:
        self.world.enqueue(self.some_job(number, JobState.ACCEPTED).delivery)

    @rule()
    def admit(self) -> None:
        self.world.admit()

    # -- processes ---------------------------------------------------------------------------------

    @precondition(lambda self: self.world.granted)
    @rule(number=index, confirmed=st.booleans(), twice=st.sampled_from(["", "", "starts", "fails"]))
    def launch(self, number: int, confirmed: bool, twice: str) -> None:
        record = self.one(self.world.granted, number)
        self.world.granted.remove(record)
        for _ in range(2 if twice == "starts" else 1):
            process = self.world.spawn(record)
            if confirmed:
                self.world.launched(process)
        if (
            twice == "fails"
        ):  # a repair had launched it, and the dispatcher that stalled comes to its own launch
            self.world.release(record["delivery"], record["attempt"], "", "INFRA", True)

    @precondition(lambda self: self.world.granted)
    @rule(number=index)
    def start(self, number: int) -> None:
        """The ordinary way, without anybody dying in between."""
        record = self.one(self.world.granted, number)
        self.world.granted.remove(record)
        process = self.world.spawn(record)
        self.world.launched(process)
        self.world.claim(process, process.told)

    @precondition(lambda self: self.world.granted)
    @rule(number=index, reason=st.sampled_from(["INFRA", "BAD_SPEC"]))
    def launch_fails(self, number: int, reason: str) -> None:
        record = self.one(self.world.granted, number)
        self.world.granted.remove(record)
        self.world.release(record["delivery"], record["attempt"], "", reason, reason == "INFRA")

    @precondition(lambda self: self.world.granted)
    @rule(number=index)
    def dispatcher_dies_before_it_launches(self, number: int) -> None:
        self.world.granted.remove(self.one(self.world.granted, number))

    @precondition(lambda self: self.world.processes)
    @rule(
        number=index,
        wrong=st.sampled_from(["", "", "", "token", "attempt"]),
        loads_within=st.sampled_from([None, 5, 15]),
    )
    def claim(self, number: int, wrong: str, loads_within: float | None) -> None:
        process = self.some_process(number)
        self.world.claim(process, self.told(process, wrong), loads_within)

    @precondition(lambda self: self.world.processes)
    @rule(
        number=index,
        wrong=st.sampled_from(["", "", "", "token", "attempt"]),
        limit=st.sampled_from([None, 7]),
        if_lost=st.sampled_from([None, "requeue"]),
    )
    def application_is_loaded(
        self, number: int, wrong: str, limit: float | None, if_lost: str | None
    ) -> None:
        process = self.some_process(number)
        self.world.loaded(process, self.told(process, wrong), limit, if_lost)

    @precondition(lambda self: self.world.processes)
    @rule(
        number=index,
        outcome=st.sampled_from(["SUCCEEDED", "ERROR", "RETRIED", "REQUEUED"]),
        wrong=st.sampled_from(["", "", "", "token", "attempt"]),
        confirm=st.booleans(),
    )
    def report(self, number: int, outcome: str, wrong: str, confirm: bool) -> None:
        process = self.some_process(number)
        self.world.report(process, self.told(process, wrong), outcome)
        if confirm:
            self.world.reported(process, self.told(process, wrong))

    @precondition(lambda self: self.world.processes)
    @rule(number=index)
    def report_is_confirmed(self, number: int) -> None:
        process = self.some_process(number)
        self.world.reported(process, process.told)

    @precondition(lambda self: self.world.processes)
    @rule(
        number=index,
        reuses=st.booleans(),
        does=st.sampled_from(["reports", "reports", "reports", "dies", ""]),
        reason=st.sampled_from(["INFRA", "ERROR"]),
        loads_within=st.sampled_from([None, 5, 15]),
        wrong=st.sampled_from(["", "", "", "", "instance", "token", "attempt"]),
        again=st.booleans(),
        stays=st.sampled_from([None, 5, 100]),
        longest=st.sampled_from([None, None, 7]),
    )
    def instance_asks_for_its_next_job(
        self,
        number: int,
        reuses: bool,
        does: str,
        reason: str,
        loads_within: float | None,
        wrong: str,
        again: bool,
        stays: float | None,
        longest: float | None,
    ) -> None:
        process, world = self.some_process(number), self.world
        if does == "reports" and world.report(process, process.told, "SUCCEEDED"):
            world.reported(process, process.told)
        if wrong in ("token", "attempt"):
            told = self.told(process, wrong)
            process = replace(process, attempt=told.attempt.number, token=told.token)
            if self.world.model.jobs[process.delivery].token == "":
                return  # the tombstone has no token, and the instance proves itself
        world.ask_next(
            process,
            reuses=reuses,
            loads_within=loads_within,
            dies=reason if does == "dies" else "",
            instance="h:other:1" if wrong == "instance" else "",
            again=again,
            stays=stays,
            longest=longest,
        )

    @precondition(lambda self: self.world.granted)
    @rule(
        number=index,
        reuses=st.booleans(),
        jobs=st.integers(1, 4),
        limit=st.sampled_from([0, 7]),
        stays=st.sampled_from([None, 100]),
    )
    def instance_runs_several(
        self, number: int, reuses: bool, jobs: int, limit: int, stays: float | None
    ) -> None:
        """The ordinary way of a warm instance, until it gets nothing, or waits."""
        world, record = self.world, self.one(self.world.granted, number)
        world.granted.remove(record)
        process: Process | None = world.spawn(record)
        for turn in range(jobs):
            if process is None:
                break
            if not turn:
                world.launched(process)
                world.claim(process, process.told)
            if limit:
                world.loaded(process, process.told, limit)
            if world.report(process, process.told, "SUCCEEDED"):
                world.reported(process, process.told)
            process = world.ask_next(
                process, reuses=reuses, loads_within=5 if limit else None, stays=stays
            )

    @rule(
        isolation=st.sampled_from(ISOLATIONS),
        number=st.integers(0, 2),
        jobs=st.sampled_from([2, 20]),
        stays=st.sampled_from([20, 100]),
        longest=st.sampled_from([None, None, 7]),
        comes=st.integers(0, 3),
        looks=st.booleans(),
    )
    def pods_run_all_and_wait(
        self,
        isolation: str,
        number: int,
        jobs: int,
        stays: float,
        longest: float | None,
        comes: int,
        looks: bool,
    ) -> None:
        """The ordinary way of pods, until no job is left for them, and others come."""
        world = self.world
        if number:
            self.submit_several(isolation, number)
        started = [world.spawn(record) for record in world.granted]
        world.granted.clear()
        for each in started:
            world.launched(each)
            world.claim(each, each.told)
        for each in started:
            process: Process | None = each
            while process and jobs:
                jobs -= 1
                if world.report(process, process.told, "SUCCEEDED"):
                    world.reported(process, process.told)
                process = world.ask_next(process, reuses=False, stays=stays, longest=longest)
        world.admit()
        for turn in range(comes):
            if world.pods_that_wait():
                self.job_comes_that_a_pod_can_run(turn, 5 if longest else None, looks)

    @precondition(lambda self: self.world.pods_that_wait())
    @rule(number=index, limit=st.sampled_from([None, None, 5, 9]), looks=st.booleans())
    def job_comes_that_a_pod_can_run(self, number: int, limit: int | None, looks: bool) -> None:
        world, pod = self.world, self.one(self.world.pods_that_wait(), number)
        world.announce()
        job = world.model.jobs.get(pod.delivery)
        kind = (job.tenant if job else "", 0)
        self.submit(pod.isolation, 3, None, None, limit, kind, 60, True)
        process = world.look(pod) if looks else None
        if process:
            world.claim(process, process.told)

    @precondition(lambda self: self.world.pods_that_wait())
    @rule(
        number=index,
        leaves=st.sampled_from([False, False, True]),
        again=st.booleans(),
        claims=st.booleans(),
    )
    def pod_looks(self, number: int, leaves: bool, again: bool, claims: bool) -> None:
        pod = self.one(self.world.pods_that_wait(), number)
        process = self.world.look(pod, leaves=leaves, again=again)
        if process and claims:
            self.world.claim(process, process.told)

    @precondition(lambda self: self.world.pods_that_wait())
    @rule(number=index, times=st.integers(0, 2), by_first=st.booleans())
    def pod_ends_without_a_word(self, number: int, times: int, by_first: bool) -> None:
        """While it waits, or before it has looked at the job that it was given."""
        self.ends(self.one(self.world.pods_that_wait(), number), "INFRA", times, by_first)

    @precondition(lambda self: self.world.model.pods.until)
    @rule(most=st.integers(0, 2))
    def another_pod_finds_no_room(self, most: int) -> None:
        self.world.send_away(most)

    @rule()
    def dispatcher_says_that_it_lives(self) -> None:
        self.world.announce()

    @precondition(lambda self: self.world.model.pods.until)
    @rule(names=st.sampled_from([("warm",), ("warm", "warm_until")]))
    def redis_loses_the_pods_that_wait(self, names: tuple[str, ...]) -> None:
        self.world.lose_pods(*names)

    @precondition(lambda self: self.world.asked)
    @rule(number=index)
    def instance_asks_once_more_much_later(self, number: int) -> None:
        self.world.ask_late(number)

    @precondition(lambda self: self.world.processes)
    @rule(number=index, again=st.booleans(), times=st.integers(0, 2), by_first=st.booleans())
    def process_ends(self, number: int, again: bool, times: int, by_first: bool) -> None:
        self.ends(self.some_process(number), "INFRA" if again else "ERROR", times, by_first)

    def ends(self, process: Process, reason: str, times: int, by_first: bool) -> None:
        self.world.processes.remove(process)
        if by_first and process.first:  # as a launcher names it that knows nothing of the others
            process = replace(process, delivery=process.first[0], attempt=process.first[1])
        for _ in range(times):  # 0: its end goes unseen
            self.world.release(
                *(process.delivery, process.attempt, process.instance),
                *(reason, reason == "INFRA"),
            )

    @precondition(lambda self: self.world.processes)
    @rule(number=index, times=st.integers(1, 2))
    def gpu_fails(self, number: int, times: int) -> None:
        process = self.some_process(number)
        self.world.processes.remove(process)
        for _ in range(times):
            self.world.release(
                process.delivery, process.attempt, process.instance, "INFRA", True, "device"
            )

    @precondition(lambda self: self.world.model.jobs)
    @rule(number=index, attempt=st.integers(1, 2))
    def another_process_ends(self, number: int, attempt: int) -> None:
        """It belongs to no known attempt: it frees only a slot without a known instance."""
        job = self.some_job(number)
        if job.instance or job.state not in (JobState.LAUNCHING, JobState.RUNNING):
            self.world.release(job.delivery, attempt, "h:other:1", "INFRA", True)

    @precondition(lambda self: self.world.model.jobs)
    @rule(number=index)
    def relaunch(self, number: int) -> None:
        job = self.some_job(number, JobState.LAUNCHING)
        found = self.world.line.relaunch(Attempt(CLASS, job.delivery, job.attempt), 5)
        if found:
            assert (
                job.state == JobState.LAUNCHING
                and found["attempt"] == job.attempt
                and found["token"] == job.token
            )
            self.world.granted.append(found)

    # -- ends --------------------------------------------------------------------------------------

    @precondition(lambda self: self.world.model.jobs)
    @rule(number=index, terminate=st.booleans())
    def cancel(self, number: int, terminate: bool) -> None:
        self.world.cancel(
            self.some_job(number, JobState.RUNNING, JobState.LAUNCHING, JobState.WAITING).id,
            terminate,
        )

    @rule(number=st.integers(0, 3), terminate=st.booleans())
    def cancel_before_it_comes(self, number: int, terminate: bool) -> None:
        self.world.cancel(f"j{self.count + number}", terminate)

    @precondition(lambda self: self.world.model.jobs)
    @rule(number=index, finisher=st.sampled_from(["f1", "f2"]), confirm=st.booleans())
    def finish(self, number: int, finisher: str, confirm: bool) -> None:
        delivery = self.some_job(number, JobState.FINISHING).delivery
        self.world.finish_claim(delivery, finisher, 10)
        if confirm:
            self.world.finished(delivery, finisher)

    @precondition(lambda self: self.world.model.jobs)
    @rule(
        number=index,
        finisher=st.sampled_from(["f1", "f2"]),
        passing=st.sampled_from([None, True, False]),
    )
    def finish_fails(self, number: int, finisher: str, passing: bool | None) -> None:
        """A try that counts: it fails, or its process is killed (None)."""
        delivery = self.some_job(number, JobState.FINISHING).delivery
        self.world.begin_finish(delivery, finisher, 10)
        if passing is not None:
            self.world.finish_failed(delivery, finisher, passing)

    @rule(seconds=st.sampled_from([0.5, 1, 3, 10, 30]), tick=st.booleans())
    def time_passes(self, seconds: float, tick: bool) -> None:
        self.world.now += seconds
        if tick:
            self.world.tick()

    # -- operators and catastrophes ----------------------------------------------------------------

    @rule(shared=st.integers(0, 4), exclusive=st.integers(0, 3))
    def slots_are_changed(self, shared: int, exclusive: int) -> None:
        rules = self.world.model.rules
        most = rules.devices or exclusive
        self.world.reconfigure(
            replace(rules, shared_slots=shared, exclusive_slots=min(exclusive, most))
        )

    @precondition(lambda self: len(self.world.processes) > 1)
    @rule()
    def redis_loses_everything(self) -> None:
        self.world.lose_redis()

    @precondition(lambda self: self.world.processes)
    @rule(number=index)
    def adopt(self, number: int) -> None:
        self.world.adopt(self.some_process(number))

    def told(self, process: Process, wrong: str) -> Told:
        if wrong == "token":
            return Told(process.told.attempt, "0" * 40)
        return (
            Told(Attempt(CLASS, process.delivery, process.attempt + 1), process.token)
            if wrong
            else process.told
        )

    @invariant()
    def invariants_hold(self) -> None:
        if hasattr(self, "world"):
            check(self.world)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            with contextlib.closing(self.world):
                drain(self.world)
