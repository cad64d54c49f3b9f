"""What `gpuqueue top` reads: few commands, a bounded number of records, the domain of a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.top.feed import read
from gpuqueue.cli.view.state import State
from gpuqueue.settings.dispatcher import load
from gpuqueue.store.keys import CLASSES
from gpuqueue.store.reader import Reader
from tests.property.faulty_machine import Machine
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1).on(4)


def state(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> State:
    """What a command would open; the address is that of the broker, too, and never used."""
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    client.hset(CLASSES, "t4", json.dumps(T4.public()))
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
