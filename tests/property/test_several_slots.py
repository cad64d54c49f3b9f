"""The slots of jobs of several GPUs: repaired, adopted, charged, and given on."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record, devices_of
from gpuqueue.model.tenant import TenantRule
from gpuqueue.model.usage import HOUR, report
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from gpuqueue.store.owners import Owners
from gpuqueue.store.tenants import Tenants
from gpuqueue.store.turn import Turn, Turns
from gpuqueue.store.usage import Capacities, Usage
from tests.property.faulty_machine import Machine
from tests.property.going_on import POD, PROCESS, Instance
from tests.property.several import Several

pytestmark = pytest.mark.integration
A100 = GpuClass("t4", exclusive_slots=4, price_per_hour="4")
NODES = GpuClass("t4", shared_slots=2, exclusive_slots=4, domain="node")


@pytest.fixture
def four(schedule_redis: redis.Redis) -> Several:
    return Several(schedule_redis, A100, devices=4)


def turn(queue: Several) -> list[str]:
    [found] = Turns(queue.client, queue.line).take([queue.gpu_class])
    assert isinstance(found, Turn) and found.problems == [], found
    return queue.took(found.granted)


def live(record: Record) -> Record:
    """What the process or Job of an attempt says of it."""
    kept: Any = {"id", "delivery", "attempt", "token", "isolation", "gpu_class", "gpus"}
    found: Any = {name: value for name, value in record.items() if name in kept}
    return found | {  # type: ignore[no-any-return]
        name: value
        for name, value in record.items()
        if name in ("domain", "device", "all_devices", "tenant")
    }


# -- what was lost, or left behind -----------------------------------------------------------------


@pytest.mark.parametrize("key", ["holders_further", "gate"])
def test_a_lost_key_is_made_again_from_the_records(four: Several, key: str) -> None:
    four.send("three", 3)
    four.send("two", 2)
    # Names that are none of the record's.
    four.client.zadd(four.key("holders_exclusive"), {"none#1": 1.0, "three#9": 1.0})
    four.client.delete(four.key(key))
    four.line.open("t4")
    assert four.send("also", 2) == four.admit() == []
    four.client.zrem(four.key("holders_exclusive"), "none#1", "three#9")
    four.check()
    assert sorted(four.end("three")) == ["also", "two"]
    four.check()


def test_what_an_older_version_left_of_a_holder_is_freed_later(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 4})
    queue.send("three", 3)
    queue.send("two", 2)
    holder = Attempt.of(queue.running.pop("three")).holder
    key = queue.key("domains")
    queue.client.zrem(queue.key("holders_exclusive"), holder)  # as that version releases it
    queue.client.zrem(f"{key}:held", holder)
    queue.client.hdel(f"{key}:of", holder)
    queue.client.zrem(f"{key}:exclusive:a", holder)
    assert turn(queue) == [], "its further slots are held"
    queue.now += 61
    assert turn(queue) == ["two"]
    queue.check()


def test_what_an_older_version_left_of_gpus_is_freed_later(four: Several) -> None:
    four.send("three", 3)
    four.send("more", 3)
    holder = Attempt.of(four.running.pop("three")).holder
    four.client.zrem(four.key("holders_exclusive"), holder)
    four.client.hdel(four.key("devices"), holder)
    four.client.zadd(four.key("holders_further"), {"damaged": four.now})
    four.now += 30
    assert turn(four) == []
    four.now += 31
    assert turn(four) == ["more"]
    four.check()


def test_a_job_whose_record_is_lost_frees_all_its_slots(four: Several) -> None:
    four.send("three", 3)
    four.client.hdel(four.key("jobs"), "three")
    assert four.end("three") == []
    four.check()


def test_a_class_without_such_jobs_keeps_nothing_of_them(four: Several) -> None:
    four.send("one", 1)
    four.end("one")
    assert four.gate("several") is None
    assert not four.client.exists(four.key("holders_further"))


@pytest.mark.parametrize(("gpus", "isolation"), [(2.5, "exclusive"), (2, "shared")])
def test_a_number_that_no_request_has_counts_as_one(
    schedule_redis: redis.Redis, gpus: Any, isolation: str
) -> None:
    queue = Several(schedule_redis, GpuClass("t4", shared_slots=4, exclusive_slots=4))
    assert queue.send("odd", gpus, isolation=isolation) == ["odd"]
    assert sum(queue.reader.view("t4", {}).held_total.values()) == 1


def test_domains_made_again_have_all_slots_of_their_holders(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 4})
    queue.send("three", 3)
    queue.client.delete(*queue.client.scan_iter(f"{queue.key('domains')}*"))
    queue.set_nodes({"a": 4})
    queue.check()
    assert queue.send("two", 2) == []
    assert queue.end("three") == ["two"]


def test_nodes_of_an_older_version_get_their_sizes(schedule_redis: redis.Redis) -> None:
    queue = Several(schedule_redis, NODES, nodes={"a": 4, "b": 2})
    queue.client.hdel(queue.key("gate"), "sizes")
    queue.client.delete(f"{queue.key('domains')}:ends:4")
    queue.set_nodes(queue.nodes)
    assert queue.gate("sizes") == "2 4"
    queue.set_nodes({"a": 2, "b": 2})
    assert queue.gate("sizes") == "2"
    assert not queue.client.exists(f"{queue.key('domains')}:ends:4")


@pytest.mark.parametrize("nodes", [None, {"a": 4}])
def test_adopted_jobs_hold_all_their_slots(
    schedule_redis: redis.Redis, nodes: dict[str, int] | None
) -> None:
    gpu_class = NODES if nodes else A100
    queue = Several(schedule_redis, gpu_class, 0 if nodes else 4, nodes)
    queue.send("three", 3)
    record = queue.running["three"]
    queue.client.flushdb()
    queue.now += 1
    if nodes:
        queue.set_nodes(nodes)
    assert queue.line.adopt("t4", live(record), 4)
    queue.line.open("t4")
    assert queue.send("two", 2) == []
    queue.check()
    assert queue.end("three") == ["two"]
    queue.check()


@pytest.mark.parametrize(("gpus", "first", "adopted"), [(2, 2, True), (3, 2, False), (2, 1, False)])
def test_a_job_in_line_is_adopted_if_all_its_slots_are_free(
    four: Several, gpus: int, first: int, adopted: bool
) -> None:
    """Not if there are too few, and not if its first GPU is another job's second."""
    before = four.save()
    four.send("j", gpus)
    told = live(four.running["j"])
    four.restore(before)  # Redis is back with an older state
    four.send("two", 2)
    four.client.hdel(four.key("gate"), "opened")
    four.send("j", gpus)
    told["all_devices"] = ",".join(map(str, range(first, first + gpus)))
    told["device"] = first
    assert four.line.adopt("t4", told, 4) == adopted


def test_slots_without_an_owner_are_counted_and_taken_over(four: Several) -> None:
    owners = Owners(four.client)
    four.line.owner = "north"
    four.send("three", 3)
    four.send("one", 1)
    assert owners.holding("t4") == {"north": 4}
    assert owners.take_over("t4", "north", "south") == 4
    assert owners.holding("t4") == {"south": 4}


# -- what it costs ---------------------------------------------------------------------------------


def test_each_gpu_of_a_job_is_charged(four: Several) -> None:
    Capacities(four.client, {"t4": A100}).note()
    four.send("three", 3)
    four.send("one", 1)
    four.now += 900
    running = Usage(four.client).of("t4", 0)
    four.end("three")
    four.now += 900
    four.end("one")
    ended = Usage(four.client).of("t4", 0)
    until = int(four.now) * 1_000_000
    for books, used in ((running, 900 * 4), (ended, 900 * 3 + 1800)):
        for uses in (
            list(books.uses(0, until + HOUR * 48)),
            [
                use
                for each in (*books.entries, *books.running)
                for use in each.uses(books.capacities, 0, until)
            ],
        ):
            total = report(uses, (), lambda one: one.gpu_class).total
            assert total.used + total.wasted == Fraction(used * 1_000_000, 4)
    totals: Any = four.client.hgetall(four.key("usage"))
    seconds = [float(text) for name, text in totals.items() if name.count(",") == 2]
    assert sum(seconds) == pytest.approx((900 * 3 + 1800) / 4)
    [entry] = [each for each in ended.entries if each.id == "three"]
    assert entry.gpus == 3


def test_more_slots_than_a_class_has_are_noted_as_its_capacity(four: Several) -> None:
    Capacities(four.client, {"t4": A100}).note()
    four.send("four", 4)
    smaller = GpuClass("t4", exclusive_slots=2, price_per_hour="4")
    Capacities(four.client, {"t4": smaller}).note()
    now: Any = four.client.hget(four.key("usage"), "#now")
    assert json.loads(now)["exclusive"] == 4
    four.end("four")
    four.now += 1
    Capacities(four.client, {"t4": smaller}).note()
    now = four.client.hget(four.key("usage"), "#now")
    assert json.loads(now)["exclusive"] == 2


def test_limits_of_tenants_count_jobs_and_their_use_counts_gpus(four: Several) -> None:
    tenants = Tenants(four.client)
    tenants.set("t4", {"red": TenantRule(max_running=1)})
    assert four.send("r", 2, tenant="red") == ["r"]
    assert four.send("r2", 1, tenant="red") == []
    assert four.why("r2") == "TENANT_LIMIT"
    assert four.send("b", 1, tenant="blue") == ["b"]
    four.now += 100
    turn(four)
    found = {each.name: each for each in tenants.of("t4").tenants}
    assert sum(found["red"].running.values()) == 1
    assert found["red"].gpu_seconds == pytest.approx(200)
    assert found["blue"].gpu_seconds == pytest.approx(100)
    four.client.delete(four.key("tenant_running"))
    four.now += 10
    turn(four)
    assert len(four.zset("tenant_running")) == 3, "the slots of both jobs"
    four.now += 40
    assert four.end("r") == ["r2"]
    found = {each.name: each for each in tenants.of("t4").tenants}
    assert found["red"].gpu_seconds == pytest.approx(300)
    assert len(four.zset("tenant_running")) == 2


# -- instances that go on --------------------------------------------------------------------------


def going_on(client: redis.Redis, me: Any, slots: int, devices: int = 0) -> Instance:
    instance = Instance(client, me, devices=devices)
    instance.gpu_class = GpuClass("t4", exclusive_slots=slots)
    instance.announce()
    return instance


@pytest.mark.parametrize("gpus", [0, 2, 3])
def test_a_process_of_two_gpus_goes_on_with_a_job_of_two(
    schedule_redis: redis.Redis, gpus: int
) -> None:
    instance = going_on(schedule_redis, PROCESS, 2, devices=2)
    more: Any = {"isolation": "exclusive"}
    instance.start("a", gpus=2, **more)
    asked = {"gpus": gpus} if gpus else {}
    assert instance.submit("b", **more, **asked) == []
    assert instance.ask() == ("b" if gpus == 2 else None)
    if gpus == 2:
        assert instance.record("b")["all_devices"] == "0,1"
        held: Any = schedule_redis.hgetall(class_key("t4", "devices"))
        assert held == {"b#1": "0", "b#1/2": "1"}
    else:
        held = schedule_redis.hgetall(class_key("t4", "devices"))
        assert held == {"a#1": "0", "a#1/2": "1"}, "it keeps its slots until it ends"


def test_a_pod_of_several_gpus_does_not_wait_for_a_job(schedule_redis: redis.Redis) -> None:
    instance = going_on(schedule_redis, POD, 4)
    instance.start("a", gpus=2, isolation="exclusive")
    assert instance.answer(reuses=None) == "none"
    assert instance.holders() == []


def test_a_waiting_pod_gets_no_job_of_several_gpus(schedule_redis: redis.Redis) -> None:
    instance = going_on(schedule_redis, POD, 4)
    instance.start("a", isolation="exclusive")
    assert instance.answer(reuses=None) == "waits"
    [started] = instance.submit("b", isolation="exclusive", gpus=4)
    assert started["delivery"] == "b", "in a pod for itself"
    executor = ExecutorAttempt(schedule_redis, Attempt.of(started), started["token"])
    assert executor is not None
    assert instance.called() is False, "its share is one of the four"


# -- GPUs that fail --------------------------------------------------------------------------------


def devices_aside(machine: Machine) -> dict[str, float]:
    """The GPUs that are set aside, and their pause."""
    return {
        name: each["pause"]
        for name, each in machine.places().items()
        if name.startswith("device:") and "until" in each
    }


def test_no_gpu_of_several_is_blamed_as_any_may_be_at_fault(
    machine: Callable[..., Machine],
) -> None:
    many = machine(lambda record: "gpu")
    many.submit("a", "b", isolation="exclusive", gpus=2)
    many.play(120)
    assert set(many.ended) == {"a", "b"}
    assert devices_aside(many) == {}


def test_the_gpu_that_a_job_of_several_tries_is_blamed(machine: Callable[..., Machine]) -> None:
    one = machine(lambda record: "gpu" if 0 in devices_of(record) else "success")
    for name in ("a", "b"):
        one.submit(name, isolation="exclusive")
        one.end_all()
    assert devices_aside(one) == {"device:h/GPU-a": 2}
    one.submit("four", isolation="exclusive", gpus=4)
    assert one.started == [], "it is not due"
    one.play(3)
    assert devices_aside(one) == {"device:h/GPU-a": 4}


def test_a_shared_job_needs_one_gpu_while_one_of_several_waits(
    machine: Callable[..., Machine],
) -> None:
    one = machine(lambda record: "success")
    entry = {"failures": 2, "jobs": {}, "last": one.now, "until": one.now + 100, "pause": 100}
    one.client.hset(class_key("t4", "places"), "device:h/GPU-a", json.dumps(entry))
    one.submit("four", isolation="exclusive", gpus=4)
    one.submit("shared")
    assert [(each["delivery"], each["device"]) for each in one.started] == [("shared", 1)]
