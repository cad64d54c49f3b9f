"""The states of jobs, stored beside the path: each only while it is true."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.dispatcher import job_states
from gpuqueue.dispatcher.job_states import JobStates
from gpuqueue.glue.results.states import ResultStates
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.record import Record
from gpuqueue.model.states import DISPATCHED, QUEUED
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=1, exclusive_slots=1)


class World:
    """A line in one Redis, results in the same one, and the states that a dispatcher stores."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self.client.flushdb()
        self.app = Celery("states", broker=url, backend=url, set_as_current=False)
        self.line = Line(self.client, by="here")
        self.line.open("t4")
        self.reader = Reader(self.client)
        self.states = JobStates(ResultStates(self.app), self.reader, ["t4"])

    def accept(self, name: str, **fields: Any) -> Record:
        """Put a job in line; return its record, launching if it may start."""
        record: Any = {
            "id": name,
            "delivery": name,
            "task": "shop.train",
            "gpu_class": "t4",
            "isolation": "shared",
            **fields,
        }
        self.line.take_in(T4, record, "{}")
        return self.known(name)

    def known(self, name: str) -> Record:
        found = self.reader.record("t4", name)
        assert found is not None
        return found

    def shows(self, name: str, state: str) -> None:
        until(lambda: self.app.AsyncResult(name).state == state, PATIENCE, f"{name} shows {state}")

    def stored(self, name: str) -> str:
        """The state once everything that waits is stored."""
        self.states.close()
        found: str = self.app.AsyncResult(name).state
        return found

    def close(self) -> None:
        self.states.close()
        self.app.close()
        self.client.close()


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as made:
        yield made


@pytest.fixture
def world(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(job_states, "DELAYS", {})
    made = World(server.url)
    yield made
    made.close()


def test_a_waiting_job_shows_queued_and_a_launching_one_dispatched(world: World) -> None:
    first, second = world.accept("a"), world.accept("b")
    world.states.store(second, QUEUED, {"headers": {}})
    world.states.store(first, DISPATCHED)
    world.shows("a", DISPATCHED)
    world.shows("b", QUEUED)


def test_queued_is_not_stored_for_a_job_that_holds_a_slot(world: World) -> None:
    record = world.accept("a")
    world.states.store(record, QUEUED)
    assert world.stored("a") == "PENDING"


def test_a_state_of_an_earlier_attempt_is_not_stored(world: World) -> None:
    record = world.accept("a")
    world.states.store({**record, "attempt": 0}, DISPATCHED)
    assert world.stored("a") == "PENDING"


def test_dispatched_is_not_stored_after_the_claim(world: World) -> None:
    record = world.accept("a")
    world.line.launched(Attempt.of(record), "instance", 60)
    ExecutorAttempt(world.client, Attempt.of(record), record["token"]).claim("instance", "worker")
    world.states.store(record, DISPATCHED)
    world.states.store(record, "STARTED")
    assert world.stored("a") == "STARTED"


def test_no_state_is_stored_for_a_job_that_has_ended(world: World) -> None:
    waiting = [world.accept("a"), world.accept("b")][1]
    world.line.cancel("t4", "b")
    world.states.store(waiting, QUEUED)
    assert world.stored("b") == "PENDING"


def test_no_state_is_stored_for_a_job_without_results(world: World) -> None:
    record = world.accept("a", ignore_result=True)
    world.states.store(record, DISPATCHED)
    assert world.stored("a") == "PENDING"


def test_a_state_waits_until_the_application_has_told_how_it_reads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_states, "LOOK", 0.01)
    monkeypatch.setattr(job_states, "LONGEST", 1000.0)
    told: dict[str | None, bool] = {}
    asked = []

    def read(image: str | None) -> bool | None:
        asked.append(image)
        return told.get(image)

    world.states = JobStates(ResultStates(world.app), world.reader, ["t4"], read=read)
    world.accept("a")
    for name, image in (("b", "ours"), ("c", "other"), ("d", "silent")):
        world.states.store(world.accept(name, image=image), QUEUED)
    world.states.store(world.accept("e", container={"image": "any"}), QUEUED)
    world.shows("e", QUEUED)
    until(lambda: asked.count("ours") > 2, PATIENCE, "it is asked again")
    assert world.app.AsyncResult("b").state == "PENDING"
    told |= {"ours": True, "other": False}
    world.shows("b", QUEUED)
    assert world.stored("c") == world.stored("d") == "PENDING"


def test_a_state_waits_in_vain_for_seconds_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_states, "LOOK", 0.01)
    monkeypatch.setattr(job_states, "LONGEST", 0.05)
    world.states = JobStates(ResultStates(world.app), world.reader, ["t4"], read=lambda image: None)
    world.accept("a")
    world.states.store(world.accept("b"), QUEUED)
    world.shows("b", QUEUED)


def test_a_job_that_has_moved_on_costs_the_backend_nothing(world: World) -> None:
    record = world.accept("a")
    world.states.store(record, QUEUED)
    world.client.config_resetstat()
    world.states.close()
    assert "cmdstat_evalsha" not in world.client.info("commandstats")


def test_dispatched_waits_for_a_start_that_comes_soon(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    record = world.accept("a")
    began = time.monotonic()
    world.states.store(record, DISPATCHED)
    world.shows("a", DISPATCHED)
    assert 0.4 < time.monotonic() - began < 10


def test_a_refresh_reads_live_jobs_in_pages_and_no_tombstone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"job-{n}" for n in range(40)]
    for name in names:
        world.accept(name)
        world.app.backend.store_result(name, None, QUEUED)
    for n in range(3000):
        world.client.hset(class_key("t4", "jobs"), f"ended-{n}", '{"state":"ended"}')
    keys = [world.app.backend.get_key_for_task(name) for name in names]
    for key in keys:
        world.client.expire(key, 5)
    read: list[int] = []
    records = Reader.records

    def counted(self: Reader, name: str, deliveries: Any) -> Any:
        found = list(deliveries)
        read.append(len(found))
        return records(self, name, found)

    monkeypatch.setattr(Reader, "records", counted)
    world.states.refresh_if_due()
    until(
        lambda: all(world.client.ttl(key) > 100 for key in keys),
        PATIENCE,
        "every state is refreshed",
    )
    assert sum(read) == 40
