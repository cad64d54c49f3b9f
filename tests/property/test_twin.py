"""The twin of the scripts predicts each start: read from the state, it decides as they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.forecast.snapshot import Waiting
from gpuqueue.forecast.twin import Twin
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.tenant import TenantRule
from gpuqueue.store.snapshots import Snapshots
from gpuqueue.store.tenants import Tenants
from gpuqueue.store.turn import Turn, Turns
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
OVER = End(EndReason.BAD_SPEC, "over")
TENANTS = ("", "a", "b", "c")
Starts = list[tuple[str, str | None]]


@dataclass(frozen=True)
class Step:
    """What happens next: seconds pass, and a job arrives, ends, or a process looks."""

    seconds: float
    what: str
    isolation: str = SHARED
    tenant: str = ""
    priority: int = 0
    limit: float | None = None
    wait: float = 0.0
    pick: int = 0
    gpus: int = 1


STEP = st.builds(
    Step,
    st.sampled_from([0.0, 0.25, 1.5, 40.0]),
    st.sampled_from(["arrive"] * 5 + ["end"] * 4 + ["turn", "admit"]),
    st.sampled_from(ISOLATIONS),
    st.sampled_from(TENANTS),
    st.sampled_from([0, 3, 3, 9]),
    st.sampled_from([None, 5.0, 30.0, 100.0]),
    st.sampled_from([0.0] * 6 + [3.0, 50.0]),
    st.integers(0, 9),
    st.sampled_from([1, 1, 2, 3]),
)
STEPS = st.lists(STEP, min_size=10, max_size=60)
CLASSES = st.builds(
    lambda shared, exclusive, k, m, gpus: GpuClass(
        "t4",
        shared_slots=shared,
        exclusive_slots=exclusive if shared else max(1, exclusive),
        exclusive_patience=k,
        shared_patience=m,
    ).on(gpus),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 3),
)
RULES = st.dictionaries(
    st.sampled_from([*TENANTS, "*"]),
    st.builds(
        TenantRule,
        st.sampled_from([0.5, 1, 4]),
        st.sampled_from([None, None, 1, 2]),
        st.none(),
        st.sampled_from([0, 0, 1]),
    ),
)


HALF_LIVES = st.sampled_from([0, 30, 86_400])


class Compared(OpenClass):
    """The scripts beside two twins: one read again at each step, and one that was read once."""

    def __init__(self, client: redis.Redis, gpu_class: GpuClass, most: int = 1) -> None:
        devices = gpu_class.domains if gpu_class.domains > 1 else 0
        super().__init__(client, devices={"t4": devices})
        self.most = most
        """The most GPUs of a job."""
        self.gpu_class, self.turns = gpu_class, Turns(client, self.line)
        self.running: dict[str, Attempt] = {}
        self.sent = 0
        self.once: Twin | None = None
        self.delayed: list[tuple[float, Waiting]] = []
        self.expires: float | None = None

    def with_tenants(self, rules: dict[str, TenantRule], half_life: float) -> None:
        Tenants(self.client).set("t4", rules, half_life)
        self.line.admit(self.gpu_class)

    def play(self, steps: Sequence[Step]) -> int:
        """Play a schedule; return how many jobs have started."""
        self.line.admit(self.gpu_class)  # the scripts know of the domains
        self.once = self.twin()
        started = 0
        for step in steps:
            self.now += step.seconds
            started += len(self.check(step))
        return started

    def twin(self) -> Twin:
        return Twin(Snapshots(self.client, self.gpu_class).read("", self.now))

    def check(self, step: Step) -> Starts:
        assert self.once
        predicted = [self.predict(each, step) for each in (self.twin(), self.once)]
        found = self.do(step)
        assert predicted == [found, found], (predicted, found, step)
        # Tenants without jobs are forgotten, or known by a job that waits for a time.
        if step.what == "turn" or step.wait:
            self.once = self.twin()
        return found

    def predict(self, twin: Twin, step: Step) -> Starts:
        """What starts, as a twin says."""
        had_room = twin.has_room(SHARED)
        if step.what == "end":
            name = self.chosen(step)
            if name is None:
                return []
            twin.end(next(each for each in twin.held if each.rpartition("#")[0] == name), self.now)
        elif step.what == "arrive" and not step.wait:
            job = self.job(step)
            twin.arrive(job, self.now)
        elif step.what == "arrive":
            pass
        elif step.what == "turn":
            for due, job in sorted(self.delayed, key=lambda each: each[0]):
                if due <= self.now:
                    twin.arrive(job, self.now)
        started = [(job.delivery, held.domain) for job, held in twin.admit(self.now)]
        alone = step.what == "arrive" and not step.wait and self.most == 1
        if alone and step.isolation == SHARED and not had_room:
            assert not started, "a forecast takes no decision then"
        return started

    def job(self, step: Step) -> Waiting:
        name = f"j{self.sent}"
        return Waiting(
            *(name, step.isolation, step.priority, 0, step.tenant, "", step.limit, self.expires),
            gpus=min(self.most, step.gpus) if step.isolation == EXCLUSIVE else 1,
            may_exceed=step.limit is not None and step.pick % 4 == 0,
        )

    def chosen(self, step: Step) -> str | None:
        names = sorted(self.running)
        return names[step.pick % len(names)] if names else None

    def do(self, step: Step) -> Starts:
        """What starts, as the scripts say."""
        if step.what == "end":
            name = self.chosen(step)
            if name is None:
                return []
            released = self.line.release(self.gpu_class, self.running.pop(name), OVER)
            assert released.freed
            return self.took(released.granted)
        if step.what == "arrive":
            job = self.job(step)
            record = self.as_record(job)
            if step.wait:
                record["eta"] = self.now + step.wait
                self.delayed.append((record["eta"], job))
            self.sent += 1
            return self.took(self.line.take_in(self.gpu_class, record, "{}").granted)
        if step.what == "turn":
            self.delayed = [each for each in self.delayed if each[0] > self.now]
            [turn] = self.turns.take([self.gpu_class])
            assert isinstance(turn, Turn) and turn.problems == []
            return self.took(turn.granted)
        return self.took(self.line.admit(self.gpu_class))

    def as_record(self, job: Waiting) -> Record:
        record: Any = {"delivery": job.delivery, "id": job.delivery, "gpu_class": "t4"}
        record |= {"isolation": job.isolation, "priority": job.priority}
        record |= {"tenant": job.tenant} if job.tenant else {}
        record |= {"time_limit": job.time_limit} if job.time_limit else {}
        record |= {"planned_limit": 0} if job.may_exceed else {}
        record |= {"expires": job.expires} if job.expires else {}
        record |= {"gpus": job.gpus} if job.gpus > 1 else {}
        return cast(Record, record)

    def took(self, granted: Any) -> Starts:
        assert not granted.more
        for record in granted:
            self.running[record["delivery"]] = Attempt.of(record)
        return [(record["delivery"], record.get("domain")) for record in granted]


def schedules(number: int) -> settings:
    return settings(
        max_examples=number,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def predicted(client: redis.Redis, gpu_class: GpuClass, steps: list[Step]) -> None:
    Compared(client, gpu_class, most_of(gpu_class)).play(without_tenants(steps))


def without_tenants(steps: list[Step]) -> list[Step]:
    return [replace(each, tenant="") for each in steps]


def most_of(gpu_class: GpuClass) -> int:
    """How many GPUs a job can have there."""
    return max(1, gpu_class.exclusive_slots) if gpu_class.domains == 1 else 1


def predicted_with_tenants(
    client: redis.Redis,
    gpu_class: GpuClass,
    steps: list[Step],
    rules: dict[str, TenantRule],
    half_life: float,
) -> None:
    compared = Compared(client, gpu_class, most_of(gpu_class))
    compared.with_tenants(rules, half_life)
    compared.play(steps)


@given(gpu_class=CLASSES, steps=STEPS)
@schedules(5)
def test_each_start_of_a_class_is_predicted(
    schedule_redis: redis.Redis, gpu_class: GpuClass, steps: list[Step]
) -> None:
    predicted(schedule_redis, gpu_class, steps)


@given(gpu_class=CLASSES, steps=STEPS, rules=RULES, half_life=HALF_LIVES)
@schedules(5)
def test_each_start_of_a_class_with_tenants_is_predicted(
    schedule_redis: redis.Redis,
    gpu_class: GpuClass,
    steps: list[Step],
    rules: dict[str, TenantRule],
    half_life: float,
) -> None:
    predicted_with_tenants(schedule_redis, gpu_class, steps, rules, half_life)


@pytest.mark.slow
@given(gpu_class=CLASSES, steps=STEPS)
@schedules(60)
def test_many_more_starts_are_predicted(
    schedule_redis: redis.Redis, gpu_class: GpuClass, steps: list[Step]
) -> None:
    predicted(schedule_redis, gpu_class, steps)


@pytest.mark.slow
@given(gpu_class=CLASSES, steps=STEPS, rules=RULES, half_life=HALF_LIVES)
@schedules(60)
def test_many_more_starts_with_tenants_are_predicted(
    schedule_redis: redis.Redis,
    gpu_class: GpuClass,
    steps: list[Step],
    rules: dict[str, TenantRule],
    half_life: float,
) -> None:
    predicted_with_tenants(schedule_redis, gpu_class, steps, rules, half_life)


@pytest.mark.parametrize("drains", [False, True])
def test_each_start_on_nodes_is_predicted(schedule_redis: redis.Redis, drains: bool) -> None:
    """One node is larger than the other; an exclusive job waits for one of them, or for none."""
    t4 = GpuClass("t4", shared_slots=2, exclusive_slots=1, exclusive_patience=2, domain="node")
    compared = Compared(schedule_redis, t4)
    nodes = {"a": {"shared": 2, "exclusive": 1}, "b": {"shared": 3, "exclusive": 1}}
    compared.line.set_nodes(t4, nodes)
    kinds = [SHARED, SHARED, EXCLUSIVE] if drains else [SHARED]
    steps = [Step(1.5, "arrive", kinds[at % len(kinds)], limit=30.0) for at in range(18)]
    steps += [Step(40.0 * (at == 0), "end", pick=at) for at in range(18)]
    assert compared.play(steps) == 18


@pytest.mark.parametrize("domain", ["class", "node"])
def test_the_turn_of_a_job_of_several_gpus_is_predicted(
    schedule_redis: redis.Redis, domain: str
) -> None:
    """It was first while no job of a tenant that has used less was in line."""
    t4 = GpuClass("t4", exclusive_slots=4, domain=domain)
    compared = Compared(schedule_redis, t4, 4)
    if domain == "node":
        compared.line.set_nodes(t4, {"a": {"shared": 0, "exclusive": 4}})
    compared.with_tenants({}, 86_400)
    steps = [Step(0, "arrive", EXCLUSIVE, "a"), Step(1000, "arrive", EXCLUSIVE, "b")]
    steps += [Step(1, "arrive", EXCLUSIVE, "a", gpus=3), Step(9, "arrive", EXCLUSIVE, "b")]
    steps += [Step(9, "arrive", EXCLUSIVE, "c", gpus=2), Step(9, "end", pick=0)]
    steps += [Step(9, "end", pick=at) for at in (1, 0, 0)]
    assert compared.play(steps) == 5


def predicted_on_nodes(
    client: redis.Redis,
    steps: list[Step],
    sizes: tuple[int, ...],
    more: int,
    rules: dict[str, TenantRule] | None,
) -> None:
    """Nodes of several GPUs: jobs need up to three of one."""
    t4 = GpuClass("t4", shared_slots=2, exclusive_slots=2, exclusive_patience=2, domain="node")
    compared = Compared(client, t4, 3)
    nodes = {
        name: {"shared": size % 3, "exclusive": size}
        for name, size in zip("abc", sizes, strict=False)
    }
    compared.line.set_nodes(t4, nodes, more=more)
    if rules is None:
        steps = without_tenants(steps)
    else:
        compared.with_tenants(rules, 30)
    compared.play(steps)


ON_NODES = given(
    steps=STEPS,
    sizes=st.sampled_from([(1, 3), (4, 2), (3, 2, 2)]),
    more=st.sampled_from([0, 0, 1, 2]),
    rules=st.none() | RULES,
)


@ON_NODES
@schedules(6)
def test_each_start_on_nodes_that_may_come_is_predicted(
    schedule_redis: redis.Redis,
    steps: list[Step],
    sizes: tuple[int, ...],
    more: int,
    rules: dict[str, TenantRule] | None,
) -> None:
    predicted_on_nodes(schedule_redis, steps, sizes, more, rules)


@pytest.mark.slow
@ON_NODES
@schedules(100)
def test_many_more_starts_on_nodes_are_predicted(
    schedule_redis: redis.Redis,
    steps: list[Step],
    sizes: tuple[int, ...],
    more: int,
    rules: dict[str, TenantRule] | None,
) -> None:
    predicted_on_nodes(schedule_redis, steps, sizes, more, rules)


def test_an_expired_job_does_not_start(schedule_redis: redis.Redis) -> None:
    compared = Compared(schedule_redis, GpuClass("t4", shared_slots=1))
    compared.expires = compared.now + 10
    compared.play([Step(0.0, "arrive"), Step(0.0, "arrive"), Step(0.0, "arrive")])
    compared.now += 40
    assert compared.check(Step(0.0, "end")) == []
