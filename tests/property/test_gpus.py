"""The GPUs of a class change: each attempt keeps its own, and none meets the other isolation there.

A dispatcher lists the GPUs of its machine when it starts; attempts outlive it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.place import Site
from gpuqueue.model.record import gpus_of
from gpuqueue.store.keys import class_key
from tests.property.test_domains import Queue

pytestmark = pytest.mark.integration
BY_GPU = GpuClass("t4", shared_slots=2, exclusive_slots=1, exclusive_patience=2)
TOGETHER = replace(BY_GPU, domain="class", exclusive_slots=3)


class Machine(Queue):
    """A machine whose dispatchers start again with other GPUs, or another class."""

    def __init__(self, client: redis.Redis, gpus: str, gpu_class: GpuClass = BY_GPU) -> None:
        super().__init__(client, gpu_class, len(gpus))
        self.restart(gpus, gpu_class)

    def restart(self, gpus: str, gpu_class: GpuClass = BY_GPU) -> None:
        """Each letter of ``gpus`` is one."""
        self.names = list(gpus)
        self.gpu_class, self.gpus = gpu_class.on(len(gpus)), len(gpus)
        self.line.devices = {"t4": len(gpus)}
        self.line.site = Site("here", "shop", {"t4": self.names})

    def place_of(self, record: Any) -> str:
        """The GPUs that an attempt was given."""
        return "".join(gpus_of(record))

    def indexes(self) -> dict[str, str]:
        """Holder, or a further slot of one → its GPU, as the state numbers it."""
        found: Any = self.client.hgetall(class_key("t4", "devices"))
        return {holder: self.names[int(index)] for holder, index in found.items()}


@pytest.fixture
def client(schedule_redis: redis.Redis) -> redis.Redis:
    return schedule_redis


def test_gpus_in_another_order_keep_their_jobs(client: redis.Redis) -> None:
    machine = Machine(client, "abc")
    assert machine.send("s1") + machine.send("e1", "exclusive") == ["s1@a", "e1@b"]
    machine.restart("bca")
    assert machine.send("s2") + machine.send("e2", "exclusive") == ["s2@a", "e2@c"]
    assert machine.send("s3") == [], "a is full, and no other may be shared"
    assert machine.indexes() == {"s1#1": "a", "s2#1": "a", "e1#1": "b", "e2#1": "c"}
    assert machine.ends("e1") == ["s3@b"]


def test_a_gpu_that_vanishes_takes_its_jobs_with_it_and_no_other(client: redis.Redis) -> None:
    machine = Machine(client, "abc")
    assert machine.send("s1") + machine.send("e1", "exclusive") == ["s1@a", "e1@b"]
    machine.restart("bc")
    assert machine.send("s2") + machine.send("s3") == ["s2@c", "s3@c"]
    assert machine.send("s4") == [], "b has an exclusive job"
    assert machine.indexes() == {"e1#1": "b", "s2#1": "c", "s3#1": "c"}
    assert machine.ends("s1") == [], "its GPU is none of the class"
    assert machine.ends("e1") == ["s4@b"]
    machine.restart("abc")
    assert machine.send("e2", "exclusive") == ["e2@a"]


def test_a_gpu_that_is_back_has_its_jobs_again(client: redis.Redis) -> None:
    machine = Machine(client, "ab")
    assert machine.send("s1") + machine.send("e1", "exclusive") == ["s1@a", "e1@b"]
    machine.restart("ac")
    assert machine.send("e2", "exclusive") == ["e2@c"]
    machine.restart("cba")
    assert machine.send("e3", "exclusive") == []
    assert machine.send("s2") == ["s2@a"]
    assert machine.indexes() == {"s1#1": "a", "s2#1": "a", "e1#1": "b", "e2#1": "c"}


def with_a_drain_ahead(client: redis.Redis) -> Machine:
    """An exclusive job waits: shared ones hold GPU a for 100 s and b for 10 s, and c is taken."""
    machine = Machine(client, "abc")
    for number in range(4):
        machine.send(f"s{number}", time_limit=100.0 if number < 2 else 10.0)
    assert machine.send("e1", "exclusive") == ["e1@c"]
    machine.ends("s0"), machine.ends("s2")
    machine.send("e2", "exclusive")
    return machine


def test_a_domain_that_drains_is_chosen_again_among_other_gpus(client: redis.Redis) -> None:
    machine = with_a_drain_ahead(client)
    assert machine.send("s4") + machine.send("s5") == ["s4@a", "s5@b"]
    machine.ends("s4"), machine.ends("s5")
    assert machine.send("s6", time_limit=200.0) == ["s6@a"]
    assert machine.drained() == "1", "b is idle first"
    machine.restart("bac")
    assert machine.send("s7") == []
    assert machine.drained() == "0", "it is still b"


def test_the_end_of_a_drain_is_that_of_the_gpu_that_drains(client: redis.Redis) -> None:
    machine = with_a_drain_ahead(client)
    machine.send("s4", time_limit=5.0), machine.send("s5", time_limit=5.0)
    machine.ends("s4"), machine.ends("s5")
    assert machine.send("s6", time_limit=5.0) == ["s6@a"]
    assert machine.send("s7", time_limit=50.0) == [], "b is idle in 10 s"
    assert machine.drained() == "1"
    machine.restart("ca")
    assert machine.ends("s6") == ["s7@a"], "a is idle in 100 s"
    assert machine.drained() == "1"


def test_an_attempt_that_names_no_gpu_keeps_its_number(client: redis.Redis) -> None:
    """Redis had lost it, and its process knows the number alone."""
    machine = Machine(client, "abc", TOGETHER)
    machine.send("e1", "exclusive"), machine.send("e2", "exclusive")
    record = machine.record("e2")
    del record["places"]
    client.hset(class_key("t4", "jobs"), "e2", json.dumps(record))
    machine.restart("bac", TOGETHER)
    machine.send("e3", "exclusive")
    assert machine.record("e2")["device"] == 1
    assert machine.record("e1")["device"] == 1 and "domain" not in machine.record("e1")


@pytest.mark.parametrize("lost", ["record", "attempt"])
def test_a_holder_without_its_record_keeps_its_number(client: redis.Redis, lost: str) -> None:
    machine = Machine(client, "abc")
    machine.send("e1", "exclusive"), machine.send("e2", "exclusive")
    jobs, record = class_key("t4", "jobs"), machine.record("e2")
    if lost == "record":
        client.hdel(jobs, "e2")
    else:
        client.hset(jobs, "e2", json.dumps(record | {"attempt": 2}))
    machine.restart("bac")
    machine.line.admit(machine.gpu_class)
    assert client.hgetall(class_key("t4", "devices")) == {"e1#1": "1", "e2#1": "1"}
    assert machine.record("e1")["device"] == 1


def test_the_same_gpus_are_numbered_once(client: redis.Redis) -> None:
    machine = Machine(client, "abc")
    machine.send("e1", "exclusive")
    record = machine.record("e1")
    text = json.dumps(record | {"places": [*record["places"][:-1], "device:here/c"]})
    client.hset(class_key("t4", "jobs"), "e1", text)
    assert machine.send("e2", "exclusive") == ["e2@b"]
    assert machine.record("e1")["device"] == 0


def test_gpus_of_a_class_of_one_domain_keep_their_jobs(client: redis.Redis) -> None:
    machine = Machine(client, "abc", TOGETHER)
    assert machine.send("e1", "exclusive") == ["e1@a"]
    assert machine.send("e2", "exclusive", gpus=2) == ["e2@bc"]
    machine.restart("cdb", TOGETHER)
    machine.ends("e1")
    assert machine.send("e3", "exclusive") == ["e3@d"]
    assert machine.indexes() == {"e2#1": "b", "e2#1/2": "c", "e3#1": "d"}
    machine.ends("e2")
    assert machine.indexes() == {"e3#1": "d"}


def test_a_job_of_two_gpus_is_on_both_once_each_is_a_domain(client: redis.Redis) -> None:
    machine = Machine(client, "abc", TOGETHER)
    assert machine.send("e1", "exclusive", gpus=2) == ["e1@ab"]
    machine.restart("abc", BY_GPU)
    assert machine.send("s1") + machine.send("s2") == ["s1@c", "s2@c"]
    assert machine.send("s3") == []
    assert machine.ends("e1") == ["s3@a"]
    assert machine.send("e2", "exclusive") == ["e2@b"]


def test_a_class_that_was_divided_is_one_domain_again(client: redis.Redis) -> None:
    machine = Machine(client, "ab")
    assert machine.send("s1") + machine.send("e1", "exclusive") == ["s1@a", "e1@b"]
    machine.restart("ab", replace(TOGETHER, exclusive_slots=1))
    assert machine.send("s2") == []
    assert machine.why("s2") == "EXCLUSIVE_RUNNING"
    assert not client.keys(class_key("t4", "domains") + "*")
    assert machine.ends("e1") == ["s2@b"]
    assert machine.send("e2", "exclusive") == []
    machine.restart("ab", BY_GPU)
    machine.ends("s2")
    assert machine._start(machine.line.admit(machine.gpu_class)) == []
