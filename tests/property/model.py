"""DESIGN.md's promise as a small pure model: who may start next, and what has to be true of the
order that came about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.model.states import MOVES, JobState
from tests.property.model_places import Gpus
from tests.property.model_pods import CLAIMS_WITHIN, Pods

HOLDING = (JobState.LAUNCHING, JobState.RUNNING, JobState.REPORTING)
ENDING = (JobState.REPORTING, JobState.FINISHING)
IN_LINE = (JobState.ACCEPTED, JobState.DELAYED, JobState.WAITING)


@dataclass(frozen=True)
class Rules:
    """What operators set for a class."""

    shared_slots: int
    exclusive_slots: int
    exclusive_patience: int
    shared_patience: int
    devices: int = 0

    def slots(self, isolation: str) -> int:
        return self.shared_slots if isolation == SHARED else self.exclusive_slots

    @property
    def shares(self) -> int:
        """How many pods can run at once."""
        return max(self.shared_slots, self.exclusive_slots)


#: Seconds after which a job is looked at again that needs more slots than its class has.
TOO_SMALL = 30
#: Seconds between two jobs of one eta, and for how many these are kept.
MOMENT, MOST_AT_ONCE = 5e-7, 100_000


@dataclass
class ModelJob:
    """One delivery, as far as the promise knows it."""

    id: str
    delivery: str
    isolation: str
    priority: int = 0
    retries: int = 0
    tag: str = ""
    """Of the message; empty: it is not known."""
    spared: int = 0
    requeues: int = 0
    losses: int = 0
    if_lost: str = ""
    avoid: tuple[int, ...] = ()
    loading: bool = False
    eta: float | None = None
    #: When it goes into line: among jobs of one eta, the later accepted ones a moment later.
    due: float = 0.0
    expires: float | None = None
    state: JobState = JobState.ACCEPTED
    arrival: int = 0
    attempt: int = 0
    token: str = ""
    instance: str = ""
    claimed: bool = False
    cancelled: bool = False
    timed_out: str = ""
    outcome: str = ""
    reason: str = ""
    finisher: str = ""
    lease_until: float = 0.0
    finishes: int = 0
    finish_waits: float = 0.0
    has_message: bool = True
    time_limit: float | None = None
    planned_limit: float | None = None
    """What its task declares until it is loaded; 0: not known; None: ``time_limit``."""
    deadline: float | None = None
    admitted: float = 0.0
    let_in_until: float | None = None
    """When the class is to be idle, if it was let in at a closed gate."""
    began: float = 0.0
    """When it was launched; until then, when it was admitted."""
    started: float = 0.0
    loaded: bool = True
    """Its executor loads no application, or has reported that it is loaded."""
    gpus: int = 1
    """How many slots it needs."""
    tenant: str = ""
    task: str = "t"
    reuse: int = 0
    warm: float = 0
    runs: int = 1
    """How many its process has run."""
    turn: int = 1
    """How many attempts its instance has run with this one."""
    most: int | None = None
    """The least ``reuse`` of those that its process has run, if it is not its first."""
    first: tuple[str, int] | None = None
    """The holder that its instance was started for, unless that is its own."""
    after: tuple[str, int] | None = None
    """The holder from which its instance came."""
    last: tuple[str, int] | None = None
    """The latest holder to which its instance has gone on."""

    def move(self, state: JobState) -> None:
        """Go on to a state; the moves that states.py lists are all there are."""
        assert state in MOVES[self.state], (
            f"{self.delivery}: {self.state} → {state} is no legal move"
        )
        self.state = state

    @property
    def plan(self) -> float | None:
        """The limit by which its end is planned; None: none is known."""
        limit = self.time_limit if self.planned_limit is None else self.planned_limit
        return limit or None

    @property
    def allows(self) -> int:
        """How many attempts its process may run."""
        return self.reuse if self.most is None else self.most

    @property
    def place(self) -> tuple[int, int]:
        return (self.priority, self.arrival)


@dataclass
class Model:
    """The line of a class: priority first, then first arrival; soft exclusivity with two bounds."""

    rules: Rules
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    holders: dict[tuple[str, int], str] = field(default_factory=dict)
    newest: dict[str, str] = field(default_factory=dict)
    """Task id → its newest delivery, unless that has the name of the id."""
    gpus: Gpus = field(init=False)
    pods: Pods = field(default_factory=Pods)
    arrivals: int = 0
    overtaken: int = 0
    """Later shared jobs that started while an exclusive job waited, since one last started or began
    to wait.
    """
    row: int = 0
    """Exclusive jobs in a row that started while shared ones waited."""
    idle_at: float | None = None
    """While the gate is closed: when the class is to be idle, as its shared jobs had declared;
    -inf: one of them had declared no end. It does not move until the gate opens.
    """

    def __post_init__(self) -> None:
        self.gpus = Gpus(self.rules.devices)

    def newest_of(self, job_id: str) -> ModelJob | None:
        return self.jobs.get(self.newest.get(job_id, job_id))

    def retries_of(self, job_id: str) -> int:
        """How often a task has asked for a retry in its latest run."""
        newest = self.newest_of(job_id)
        return newest.retries if newest else 0

    def follows(self, job: ModelJob) -> None:
        """A delivery may be the newest one of its task."""
        if job.delivery != job.id and job.retries >= self.retries_of(job.id):
            self.newest[job.id] = job.delivery

    def hinders(self, job_id: str) -> str:
        """What keeps a task from another run."""
        newest = self.newest_of(job_id)
        if newest and newest.reason == "RETRIED":
            return "busy"
        if newest and newest.state not in (*ENDING, JobState.ENDED):
            return "busy"
        live = [each for each in self.jobs.values() if each.state != JobState.ENDED]
        return "ending" if any(each.id == job_id for each in live) else ""

    def running(self) -> dict[tuple[str, int], float]:
        """Holder → since when it runs; infinity: it has not been claimed."""
        found = {}
        for delivery, attempt in self.holders:
            job = self.jobs.get(delivery)
            runs = job and job.attempt == attempt and job.state in HOLDING[1:]
            found[delivery, attempt] = job.started if job and runs else math.inf
        return found

    def gpu_for(self, isolation: str, now: float, avoid: tuple[int, ...] = ()) -> int | None:
        return self.gpus.pick(isolation, self.rules.slots(isolation), now, self.running(), avoid)

    def waiting(self, isolation: str) -> list[ModelJob]:
        found = [
            job
            for job in self.jobs.values()
            if job.state == JobState.WAITING and job.isolation == isolation
        ]
        return sorted(found, key=lambda job: job.place)

    def first(self, isolation: str) -> ModelJob | None:
        """The first in line. A job whose isolation has no slots blocks no other."""
        line = self.waiting(isolation) if self.rules.slots(isolation) else []
        return line[0] if line else None

    def slots_of(self, holder: tuple[str, int]) -> int:
        """How many slots a holder has: they stay as many for all attempts of a job."""
        job = self.jobs.get(holder[0])
        return job.gpus if job else 1

    def held(self, isolation: str) -> int:
        """The slots in use."""
        return sum(
            self.slots_of(holder) for holder, each in self.holders.items() if each == isolation
        )

    @property
    def in_use(self) -> int:
        return sum(map(self.slots_of, self.holders))

    def put_off_too_large(self, now: float) -> bool:
        """Whether the first exclusive job has left the line, as its class has too few slots."""
        job = self.first(EXCLUSIVE)
        if job is None or job.gpus <= max(1, self.rules.exclusive_slots):
            return False
        if job.expires is not None and job.expires <= now:
            self.hand_over(job, "EXPIRED")
            return True
        job.move(JobState.DELAYED)
        job.eta = job.due = now + TOO_SMALL + job.arrival % 2**20 / 2**20
        return True

    @property
    def gate_open(self) -> bool:
        return not self.first(EXCLUSIVE) or self.overtaken < self.rules.exclusive_patience

    def declared_end(self, now: float) -> float:
        """When the last of the shared jobs that run ends, by their limits; -inf: one has none."""
        ends = [now]
        for (delivery, attempt), isolation in self.holders.items():
            job = self.jobs.get(delivery)
            if isolation == EXCLUSIVE or (job and job.state == JobState.ENDED):
                continue
            if not job or job.attempt != attempt or not job.plan:
                return -math.inf
            since = job.admitted if job.state == JobState.LAUNCHING else job.started
            ends.append(since + job.plan)
        return max(ends)

    def watch_gate(self, now: float) -> None:
        """Note the declared end at the moment at which the gate closes."""
        if self.gate_open:
            self.idle_at = None
        elif self.idle_at is None:
            self.idle_at = self.declared_end(now)

    def watch_line(self, now: float) -> None:
        """The same, and no job is first that its class cannot hold."""
        self.watch_gate(now)
        while self.put_off_too_large(now):
            self.watch_gate(now)

    def backfills(self, job: ModelJob, now: float) -> bool:
        """Whether a shared job may start at a closed gate: beside others, and it ends in time."""
        if self.gate_open or not self.held(SHARED) or not job.plan:
            return False
        return self.idle_at is not None and now + job.plan <= self.idle_at

    def may_start(self, isolation: str, now: float) -> bool:
        """The promise, word by word, and a GPU that is not set aside."""
        if self.gpus.failed and self.gpu_for(isolation, now) is None:
            return False
        if isolation == SHARED:
            first = self.first(SHARED)
            passes = self.gate_open or (first is not None and self.backfills(first, now))
            return (
                not self.held(EXCLUSIVE) and self.held(SHARED) < self.rules.shared_slots and passes
            )
        turn = not self.first(SHARED) or self.row < self.rules.shared_patience
        first = self.first(EXCLUSIVE)
        needed = self.held(EXCLUSIVE) + (first.gpus if first else 1)
        return not self.held(SHARED) and needed <= self.rules.exclusive_slots and turn

    def next(self, now: float) -> ModelJob | None:
        firsts = [
            self.first(isolation) for isolation in ISOLATIONS if self.may_start(isolation, now)
        ]
        return min((job for job in firsts if job), key=lambda job: job.place, default=None)

    def enter(self, job: ModelJob, now: float) -> None:
        """Into line, or aside until its time has come."""
        if job.state == JobState.ACCEPTED and job.eta is not None and job.eta > now:
            last = job.eta + MOMENT * MOST_AT_ONCE
            before = [
                each
                for each in self.jobs.values()
                if each.state == JobState.DELAYED and job.eta <= each.due < last
            ]
            job.due = job.eta + MOMENT * len(before)
            job.move(JobState.DELAYED)
            return
        if job.isolation == EXCLUSIVE and not self.waiting(EXCLUSIVE):
            self.overtaken = 0
        if not job.arrival:  # a new attempt keeps the place of the first
            self.arrivals += 1
            job.arrival = self.arrivals
        job.move(JobState.WAITING)

    def startable(self, now: float) -> ModelJob | None:
        """The first that may start, after those whose time is over."""
        self.watch_line(now)
        while job := self.next(now):
            if job.expires is None or job.expires > now:
                fills = job.isolation == SHARED and self.backfills(job, now)
                job.let_in_until = self.idle_at if fills else None
                return job
            self.hand_over(job, "EXPIRED")
            self.watch_line(now)
        return None

    def admit(self, now: float) -> list[ModelJob]:
        """Start all that may start; answers copies as they were in line, in order."""
        started = []
        while job := self.startable(now):
            started.append(replace(job))
            self.start(job, now)
            if not self.call_pod(job, now):
                self.pods.free(self.rules.shares, self.in_use)
        return started

    def first_of(self, job: ModelJob) -> ModelJob | None:
        """The job that the instance of a job ran first; None: it is forgotten."""
        if job.first is None:
            return job
        first = self.jobs.get(job.first[0])
        return first if first and first.attempt == job.first[1] else None

    def call_pod(self, job: ModelJob, now: float) -> bool:
        """Give a job that has a slot to the newest pod that waits, and can run it."""
        for instance in reversed(self.pods.oldest()) if job.warm else ():
            pod = self.pods.known.get(instance)
            if pod and not pod.suits(job.isolation, job.tenant, job.plan, job.gpus):
                continue
            lives = pod and self.pods.lives(instance, now)
            self.pods.forget(instance)
            before = self.jobs.get(pod.last[0]) if pod else None
            ran_it = pod and before and before.attempt == pod.last[1]
            if before and ran_it and self.first_of(before) and lives:
                self.go_on(job, before)
                job.instance, job.deadline = instance, now + CLAIMS_WITHIN
                return True
        return False

    def go_on(self, job: ModelJob, before: ModelJob) -> None:
        """The instance of a job goes on to another one."""
        own = (before.delivery, before.attempt)
        job.first, job.after, job.turn = before.first or own, own, before.turn + 1
        for name in {own[0], job.first[0]} - {job.delivery}:
            self.jobs[name].last = (job.delivery, job.attempt)

    def called(
        self, instance: str, first: tuple[str, int], last: tuple[str, int]
    ) -> ModelJob | None:
        """The job that a pod was given since its last one, which it may have left since."""
        began = self.jobs.get(first[0])
        name = began.last if began and began.attempt == first[1] else None
        job = self.jobs.get(name[0]) if name and name != last else None
        same = job and name and (job.attempt, job.instance) == (name[1], instance)
        return job if same else None

    def fits(
        self, job: ModelJob, before: ModelJob, gpu: int | None, reuses: bool, now: float
    ) -> bool:
        """Whether an instance can go on with a job, which has a GPU and ran another one before."""
        if (job.isolation, job.tenant) != (before.isolation, before.tenant):
            return False
        allowed = job.task == before.task and before.runs < min(job.reuse, before.allows)
        if not (allowed if reuses else job.warm):
            return False
        if not self.gpus.total:
            return gpu is None
        if gpu is None or gpu in job.avoid:
            return False
        beside = list(self.gpus.dealt.values()).count(gpu)
        slots = self.rules.slots(job.isolation)
        room = math.ceil(slots / self.gpus.total) if job.isolation == SHARED else 1
        return self.gpus.standing(gpu, now, self.running()) == "in use" and beside < room

    def start(self, job: ModelJob, now: float, gpu: int | None = None) -> None:
        """Make it a holder; ``gpu``: the one that its instance has."""
        exclusive, shared = self.first(EXCLUSIVE), self.first(SHARED)
        if job.isolation == EXCLUSIVE:
            self.overtaken, self.row = 0, self.row + 1 if shared else 0
        else:
            self.row = 0
            let_in = job.let_in_until is not None
            counts = exclusive and not let_in and overtakes(job, exclusive)
            self.overtaken = self.overtaken + bool(counts) if exclusive else 0
        job.move(JobState.LAUNCHING)
        job.admitted = now
        job.attempt += 1
        job.instance, job.claimed, job.timed_out = "", False, ""
        job.loading = False
        job.turn, job.runs, job.most = 1, 1, None
        job.first, job.after, job.last = None, None, None
        holder = (job.delivery, job.attempt)
        if gpu is None and self.gpus.total:
            gpu = self.gpu_for(job.isolation, now, job.avoid)
        if gpu is not None:
            self.gpus.start(holder, gpu, now, self.running())
        self.holders[holder] = job.isolation

    def hand_over(self, job: ModelJob, reason: str) -> None:
        """Another process than the executor has to write the result."""
        job.move(JobState.FINISHING)
        job.reason, job.token, job.finisher = reason, "", ""

    def end(self, job: ModelJob) -> None:
        job.move(JobState.ENDED)
        job.token = ""


def overtakes(shared: ModelJob, exclusive: ModelJob) -> bool:
    """Whether a shared job that starts was later than the waiting exclusive one, by arrival or by
    place.
    """
    return shared.arrival > exclusive.arrival or shared.place > exclusive.place


@dataclass
class Bounds:
    """Bookkeeping of who overtook whom, from what really started: it knows nothing of how the queue
    counts.
    """

    overtakers: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    streak: int = 0
    idle_at: float | None = None
    """Until when a closed gate has let shared jobs in."""

    def started(self, job: ModelJob, waiting: dict[str, list[ModelJob]], rules: Rules) -> None:
        """One job has started; ``waiting`` are those left in line, of isolations with slots, first
        ones first.
        """
        if job.isolation == EXCLUSIVE:
            # A job may be first until one of better priority comes. When that one has started, the
            # count of the former begins again: else both bounds could block each other.
            self.overtakers.clear()
            self.idle_at = None
            assert not waiting[EXCLUSIVE] or job.place < waiting[EXCLUSIVE][0].place
            self.streak = self.streak + 1 if waiting[SHARED] else 0
            assert self.streak <= rules.shared_patience, (
                f"{self.streak} exclusive jobs in a row while shared ones waited"
            )
            return
        self.streak = 0
        if job.let_in_until is not None:
            assert self.idle_at in (None, job.let_in_until), "who is let in does not move the end"
            self.idle_at = job.let_in_until
        elif waiting[EXCLUSIVE] and overtakes(job, waiting[EXCLUSIVE][0]):
            self.idle_at = None
            passed = self.overtakers.setdefault(waiting[EXCLUSIVE][0].delivery, set())
            passed.add((job.delivery, job.attempt))
            assert len(passed) <= rules.exclusive_patience, (
                f"{waiting[EXCLUSIVE][0].delivery} was overtaken by {passed}"
            )
