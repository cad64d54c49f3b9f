"""The twin predicts each start also after cancels, expiries, failed places, and changes of rules,
bounds and nodes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from gpuqueue.classes.gpu_class import NODE, GpuClass
from gpuqueue.forecast.snapshot import Waiting
from gpuqueue.model.attempt import Observation
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.model.place import Site
from gpuqueue.model.record import Record
from gpuqueue.model.tenant import TenantRule
from gpuqueue.model.unbound import is_unbound
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from gpuqueue.store.scripts import Scripts
from gpuqueue.store.snapshots import Snapshots
from gpuqueue.store.tenants import Tenants
from tests.property.test_twin import OVER, STEP, TENANTS, Compared, Starts, Step, schedules

pytestmark = pytest.mark.integration
INSTANCE = "h:n:1"
NODES = "abcd"
BY_DEVICE = GpuClass("t4", shared_slots=2, exclusive_slots=1).on(3)
BY_NODE = GpuClass("t4", shared_slots=2, exclusive_slots=4, domain=NODE)


class Eventful(Compared):
    """GPUs are those of ``host``; probes begin at once, and succeed."""

    def __init__(self, client: redis.Redis, gpu_class: GpuClass, most: int, devices: int) -> None:
        super().__init__(client, gpu_class, most)
        self.line.devices = {"t4": devices}
        self.line.site = Site("host", "shop") if devices else Site("", "shop")
        self.line.announce([gpu_class], 10**6)
        self.claimed: set[str] = set()
        self.avoid: Sequence[str] = ()

    # -- what happens to the class ----------------------------------------------------------------

    def put_aside(self, domain: str, seconds: float) -> None:
        entry: dict[str, Any] = {"failures": 2, "jobs": {}, "last": self.now, "since": self.now}
        entry |= {"until": self.now + seconds, "pause": 2}
        entry |= {} if self.gpu_class.domain == NODE else {"domain": domain}
        self.client.hset(class_key("t4", "places"), self.place(domain), json.dumps(entry))
        self.follow()

    def use_again(self, domain: str) -> None:
        Scripts(self.client).call("clear_place", "t4", place=self.place(domain))
        self.follow()

    def cancel(self, number: int) -> None:
        keys = [class_key("t4", f"waiting_{each}") for each in ISOLATIONS]
        names: list[Any] = [name for key in keys for name in self.client.zrange(key, 0, -1)]
        if names:
            self.line.cancel("t4", names[number % len(names)])
            self.follow()

    def change(self, **fields: Any) -> None:
        self.gpu_class = replace(self.gpu_class, **fields)
        self.follow()

    def rule(self, rules: dict[str, TenantRule], half_life: float) -> None:
        Tenants(self.client).set("t4", rules, half_life)
        self.follow()

    def set_nodes(self, nodes: dict[str, tuple[int, int]], more: int = 0) -> None:
        for name in self.running:
            self.begin(name)  # else their limits begin again
        slots = {name: {SHARED: own[0], EXCLUSIVE: own[1]} for name, own in nodes.items()}
        self.line.set_nodes(self.gpu_class, slots, more=more)
        self.follow()

    def begin(self, name: str) -> None:
        """Its executor claims it."""
        if name in self.claimed:
            return
        self.claimed.add(name)
        attempt, record = self.running[name], self.record(name)
        if self.gpu_class.domain == NODE and not is_unbound(record["domain"]):
            self.line.observed([Observation(attempt, node=record["domain"])])
        ExecutorAttempt(self.client, attempt, record["token"]).claim(INSTANCE, "w")

    def follow(self) -> None:
        """The scripts and a new twin decide."""
        self.once = self.twin()
        self.check(Step(0.0, "admit"))

    # -- compare ----------------------------------------------------------------------------------

    def check(self, step: Step) -> Starts:
        """At the times of their expiries, a watcher takes jobs out."""
        over = self.client.zcount(class_key("t4", "expiring"), "-inf", self.now)
        if over and step.what != "turn":
            self.check(replace(step, what="turn", wait=0.0))
        if step.what == "turn":
            snapshot = Snapshots(self.client, self.gpu_class).read("", self.now)
            self.delayed = list(snapshot.delayed)
        return super().check(step)

    def job(self, step: Step) -> Waiting:
        return replace(super().job(step), avoid=frozenset(self.avoid))

    def place(self, domain: str) -> str:
        return f"node:{domain}" if self.gpu_class.domain == NODE else f"device:host/{domain}"

    def do(self, step: Step) -> Starts:
        name = self.chosen(step)
        if step.what == "end" and name in self.claimed:
            attempt, record = self.running.pop(name), self.record(name)
            if record.get("probes"):
                ExecutorAttempt(self.client, attempt, record["token"]).report("SUCCEEDED")
            return self.took(self.line.release(self.gpu_class, attempt, OVER, INSTANCE).granted)
        return super().do(step)

    def as_record(self, job: Waiting) -> Record:
        record = super().as_record(job)
        node = self.gpu_class.domain == NODE
        avoid = [each if node else self.place(each) for each in job.avoid]
        record["task"] = "train"
        if avoid:
            record["avoid"] = avoid
        return record

    def took(self, granted: Any) -> Starts:
        found = super().took(granted)
        for record in granted:
            if record.get("probes"):
                self.begin(record["delivery"])
        return found

    def chosen(self, step: Step) -> str | None:
        """A probe whose time is over cannot succeed."""
        name = super().chosen(step)
        record = self.record(name) if name in self.claimed else {}
        late = record.get("time_limit") and record["started"] + record["time_limit"] <= self.now
        return None if late and record.get("probes") else name


@dataclass(frozen=True)
class Event:
    """What happens to a class beside its jobs."""

    seconds: float
    what: str
    numbers: tuple[int, ...]


EVENTS = st.builds(
    Event,
    st.sampled_from([0.0, 0.25, 7.0, 40.0]),
    st.sampled_from(["cancel", "begin", "begin", "aside", "again", "bounds", "rule", "nodes"]),
    st.tuples(*(st.integers(0, 11) for _ in range(8))),
)
MIXED = st.lists(st.one_of(STEP, STEP, STEP, EVENTS), min_size=20, max_size=70)


def happen(compared: Eventful, event: Event) -> None:
    one, two, *sizes = event.numbers
    by_node = compared.gpu_class.domain == NODE
    domains = NODES if by_node else "012"[: compared.gpu_class.domains]
    names = sorted(compared.running)
    if event.what == "cancel":
        compared.cancel(one)
    elif event.what == "begin" and names:
        compared.begin(names[one % len(names)])
        compared.follow()
    elif event.what == "aside" and len(domains) > 1:
        compared.put_aside(domains[one % len(domains)], (1.0, 5.0, 100.0)[two % 3])
    elif event.what == "again" and len(domains) > 1:
        compared.use_again(domains[one % len(domains)])
    elif event.what == "bounds":
        compared.change(exclusive_patience=1 + one % 4, shared_patience=1 + two % 3)
    elif event.what == "rule":
        most, guaranteed = (None, None, 1, 2)[one % 4], (0, 0, 1, 2)[two % 4]
        rule = TenantRule((0.5, 1, 4)[sizes[0] % 3], most, None, guaranteed)
        compared.rule({[*TENANTS, "*"][sizes[1] % 5]: rule}, (0, 30, 86_400)[sizes[2] % 3])
    elif event.what == "nodes" and by_node:
        nodes = {name: (size % 4, size // 3) for name, size in zip(NODES, sizes, strict=False)}
        compared.set_nodes(dict([*nodes.items()][one % 4 :]), (0, 0, 1, 2)[two % 4])


def predicted_with_events(
    client: redis.Redis, gpu_class: GpuClass, schedule: Sequence[Step | Event]
) -> None:
    by_node = gpu_class.domain == NODE
    devices = gpu_class.domains if gpu_class.domains > 1 else 0
    most = 4 if by_node else 1 if devices else gpu_class.exclusive_slots
    compared = Eventful(client, gpu_class, max(1, most), devices)
    compared.line.admit(gpu_class)
    if by_node:
        compared.set_nodes({"a": (2, 4), "b": (3, 1), "c": (0, 2)}, 1)
    compared.follow()
    for number, each in enumerate(schedule):
        compared.now += each.seconds
        if isinstance(each, Event):
            happen(compared, each)
            continue
        compared.avoid = [(NODES if by_node else "012")[each.pick % 3]] if number % 5 == 0 else ()
        compared.expires = compared.now + 30 if number % 7 == 0 else None
        compared.check(replace(each, seconds=0.0))


ANY_CLASS = given(
    gpu_class=st.sampled_from([BY_DEVICE, BY_NODE, GpuClass("t4", exclusive_slots=3)])
    | st.sampled_from([GpuClass("t4", shared_slots=2, exclusive_slots=2)]),
    schedule=MIXED,
)


@ANY_CLASS
@schedules(8)
def test_each_start_between_events_is_predicted(
    schedule_redis: redis.Redis, gpu_class: GpuClass, schedule: list[Step | Event]
) -> None:
    predicted_with_events(schedule_redis, gpu_class, schedule)


@pytest.mark.slow
@ANY_CLASS
@schedules(40)
def test_many_more_starts_between_events_are_predicted(
    schedule_redis: redis.Redis, gpu_class: GpuClass, schedule: list[Step | Event]
) -> None:
    predicted_with_events(schedule_redis, gpu_class, schedule)


# -- one by one --------------------------------------------------------------------------------


@pytest.fixture
def devices(schedule_redis: redis.Redis) -> Eventful:
    compared = Eventful(schedule_redis, BY_DEVICE, 1, 3)
    compared.play([])
    return compared


@pytest.fixture
def nodes(schedule_redis: redis.Redis) -> Eventful:
    compared = Eventful(schedule_redis, BY_NODE, 4, 0)
    compared.play([])
    return compared


def test_a_gpu_whose_probe_ended_without_a_verdict_is_tried_again(devices: Eventful) -> None:
    devices.put_aside("0", 5.0)
    devices.now += 10
    [(name, domain)] = devices.check(Step(0.0, "arrive"))
    assert domain == "0"
    attempt = devices.running.pop(name)
    devices.line.release(BY_DEVICE, attempt, OVER, INSTANCE)
    devices.follow()
    assert devices.client.hlen(class_key("t4", "places")) == 1, "its probe said nothing"
    assert devices.check(Step(0.0, "arrive", EXCLUSIVE)) == [("j1", "0")]


def test_a_gpu_is_in_use_again_once_its_probe_has_run_for_long(devices: Eventful) -> None:
    devices.put_aside("0", 5.0)
    devices.now += 10
    assert devices.check(Step(0.0, "arrive")) == [("j0", "0")]
    assert devices.check(Step(59.0, "arrive")) == [("j1", "1")]
    devices.now += 60
    assert devices.check(Step(0.0, "arrive")) == [("j2", "0")]


def test_a_job_keeps_away_from_a_gpu_where_it_has_failed(devices: Eventful) -> None:
    devices.avoid = ("0",)
    assert devices.check(Step(0.0, "arrive", wait=3.0)) == []
    devices.now += 5
    assert devices.check(Step(0.0, "turn")) == [("j0", "1")]


def test_a_domain_without_a_node_goes_with_its_last_holder(nodes: Eventful) -> None:
    nodes.set_nodes({"a": (0, 2)}, more=1)
    assert nodes.check(Step(0.0, "arrive", EXCLUSIVE, gpus=2)) == [("j0", "a")]
    [(_, domain)] = nodes.check(Step(0.0, "arrive", EXCLUSIVE, gpus=4))
    assert domain and is_unbound(domain)
    nodes.set_nodes({"a": (0, 2), "b": (0, 0)})
    assert nodes.check(Step(0.0, "arrive", EXCLUSIVE)) == []
    assert nodes.check(Step(0.0, "end", pick=1)) == [], "the node that came has no room"


def test_a_job_that_expires_lets_the_next_ones_start(schedule_redis: redis.Redis) -> None:
    compared = Eventful(schedule_redis, GpuClass("t4", exclusive_slots=3), 3, 0)
    compared.play([Step(0.0, "arrive", EXCLUSIVE, gpus=2)])
    compared.expires = compared.now + 5
    assert compared.check(Step(0.0, "arrive", EXCLUSIVE, gpus=2)) == []
    compared.expires = None
    assert compared.check(Step(0.0, "arrive", EXCLUSIVE)) == []
    compared.now += 10
    assert compared.check(Step(0.0, "turn")) == [("j2", None)]


def test_starts_are_predicted_while_the_lines_of_tenants_are_made(devices: Eventful) -> None:
    for number in range(12):
        devices.check(Step(0.0, "arrive", tenant="ab"[number % 2]))
    assert len(devices.running) == 6
    devices.rule({"*": TenantRule(1, 4)}, 30)
    for _ in range(6):
        devices.check(Step(1.5, "end"))
        devices.rule({"*": TenantRule(1, 6)}, 30)
    assert len(devices.running) == 6
