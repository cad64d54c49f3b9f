"""What `gpuqueue top` reads: few commands, a bounded number of records, the domain of a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.top.feed import read
from gpuqueue.cli.view.state import State
from gpuqueue.model.tenant import TenantRule
from gpuqueue.settings.dispatcher import load
from gpuqueue.store.clock import redis_time
from gpuqueue.store.keys import CLASSES, GROUPS, class_key
from gpuqueue.store.lease import group_of
from gpuqueue.store.reader import Reader
from gpuqueue.store.tenants import Tenants
from tests.property.faulty_machine import Machine
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1).on(4)
ONE = GpuClass("t4", shared_slots=1)


def state(client: redis.Redis, monkeypatch: pytest.MonkeyPatch, gpu_class: GpuClass = T4) -> State:
    """What a command would open; the address is that of the broker, too, and never used."""
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    client.hset(CLASSES, "t4", json.dumps(gpu_class.public()))
    client.zadd(GROUPS, {group_of("", ["t4"]): redis_time(client)})
    return State(client, Reader(client), load())


def commands(client: redis.Redis, step: Callable[[], Any]) -> dict[str, int]:
    client.config_resetstat()
    step()
    found = client.info("commandstats")
    own = ("config|resetstat", "config", "info")
    return {
        name.removeprefix("cmdstat_"): each["calls"]
        for name, each in found.items()
        if name.removeprefix("cmdstat_") not in own
    }


def test_a_frame_costs_the_same_with_few_jobs_and_with_many(
    schedule_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = OpenClass(schedule_redis, devices={"t4": 4})
    looking = state(schedule_redis, monkeypatch)

    def send(first: int, last: int) -> None:
        for number in range(first, last):
            record: Any = {
                "delivery": f"j{number}",
                "id": f"j{number}",
                "isolation": "exclusive" if number % 9 == 8 else "shared",
                "gpu_class": "t4",
                "tenant": f"tenant-{number % 3}",
            }
            queue.line.take_in(T4, record, "{}")

    send(0, 30)
    read(looking, 10)  # its scripts are loaded
    few = commands(schedule_redis, lambda: read(looking, 10))
    send(30, 400)
    many = commands(schedule_redis, lambda: read(looking, 10))
    # Of jobs that come from further behind, the records and places are asked for.
    assert few.pop("zrank", 0) <= 20 and many.pop("zrank", 0) <= 20
    assert abs(few.pop("hmget") - many.pop("hmget")) <= 2
    assert few == many
    assert sum(many.values()) <= 130 and not {"keys", "scan", "hscan", "zscan"} & set(many)

    found = read(looking, 10)
    [t4] = found["classes"]
    assert {kind: len(line["jobs"]) for line in found["next"] if (kind := line["isolation"])} == {
        "shared": 10, "exclusive": 10,
    }  # fmt: skip
    assert sum(line["total"] for line in found["next"]) == 392
    assert [box["held"]["shared"] for box in t4["boxes"]] == [2, 2, 2, 2]
    assert sum(each["running"] for each in found["tenants"]) == len(found["running"]) == 8
    assert sum(each["waiting"] for each in found["tenants"]) == 20
    json.dumps(found)
    view = looking.reader.view("t4", T4.public(), 1, 3)
    assert (len(view.holders["shared"]), view.held_total["shared"]) == (3, 8)


class Tenanted(OpenClass):
    """One slot, and jobs of tenants; ``a`` came first, with many."""

    def __init__(self, client: redis.Redis, half_life: float = 30) -> None:
        super().__init__(client)
        self.running: set[str] = set()
        rules = {"full": TenantRule(1, 0), "b": TenantRule(1, None, None, 1), "c": TenantRule(4)}
        Tenants(client).set("t4", rules, half_life)
        tenants = ["full", *["a"] * 60, *"bbbccc", *["full"] * 3, *"ddb"]
        for number, tenant in enumerate(tenants):
            self.send(f"{tenant}{number}", tenant, number % 3 * 3)

    def send(self, name: str, tenant: str, priority: int) -> None:
        record: Any = {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}
        record |= {"tenant": tenant, "priority": priority, "task": "train"}
        self.took(self.line.take_in(ONE, record, "{}").granted)

    def start_one(self) -> list[str]:
        """A slot more comes."""
        more = replace(ONE, shared_slots=len(self.running) + 1)
        return self.took(self.line.admit(more))

    def line_of(self) -> list[str]:
        found: Any = self.client.zrange(class_key("t4", "waiting_shared"), 0, -1)
        return [*found]

    def took(self, granted: Any) -> list[str]:
        self.running |= {record["delivery"] for record in granted}
        return [record["delivery"] for record in granted]


@pytest.mark.parametrize("half_life", [0, 30])
def test_the_jobs_that_are_next_are_those_of_the_tenants_in_turn(
    schedule_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, half_life: float
) -> None:
    queue = Tenanted(schedule_redis, half_life)
    looking = state(schedule_redis, monkeypatch, ONE)
    for _ in range(8):
        queue.now += 7
        queue.line.admit(ONE)  # what runs is charged
        [line] = read(looking, 5)["next"]
        names = [job["id"] for job in line["jobs"]]
        assert line["reason"] == line["jobs"][0]["reason"] == "NO_FREE_SLOT"
        places = [queue.line_of().index(name) + 1 for name in names]
        assert [job["place"] for job in line["jobs"]] == places
        assert [started for _ in names for started in queue.start_one()] == names


def test_each_job_of_a_class_that_is_not_served_says_so(
    schedule_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tenanted(schedule_redis)
    looking = state(schedule_redis, monkeypatch, ONE)
    schedule_redis.delete(GROUPS)
    [line] = read(looking, 5)["next"]
    assert {line["reason"], *(job["reason"] for job in line["jobs"])} == {"NO_DISPATCHER"}


def test_jobs_of_a_tenant_at_its_limit_come_last_and_say_so(
    schedule_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tenanted(schedule_redis)
    [line] = read(state(schedule_redis, monkeypatch, ONE), 100)["next"]
    assert len(line["jobs"]) == line["total"] == 72
    last = [job["reason"] for job in line["jobs"] if job["tenant"] == "full"]
    assert [job["reason"] for job in line["jobs"]] == ["NO_FREE_SLOT"] * 68 + last
    assert last == ["TENANT_LIMIT"] * 4


def test_a_gpu_that_is_set_aside_is_found_among_the_domains(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine(lambda record: "gpu" if record.get("domain") == "2" else "success")
    here.gpu_class = T4
    here.submit(*(f"j{number}" for number in range(12)))
    while not here.set_aside():
        here.end_all()
    [t4] = read(state(here.client, monkeypatch), 10)["classes"]
    assert [each["place"] for each in t4["places"]] == ["device:h/GPU-c"]
    assert [box["name"] for box in t4["boxes"] if box["set_aside"]] == ["2"]
