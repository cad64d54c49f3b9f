"""An instance asks for its next job: when it gets one, which one, and what stays as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import EXIT_NO_APPLICATION, End, explain
from gpuqueue.model.place import Site
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from gpuqueue.store.keys import class_key, class_keys, wake_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from tests.property.looks import Looks
from tests.support.model_time import Timed

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=1, exclusive_slots=1, exclusive_patience=1)
HOST = "gpu-box"
SITE = Site(HOST, "shop", {"t4": ["GPU-1", "GPU-2"]})
ME = WarmInstance("gpu-box:n:1", HOST, HOST, "shop")


class World(Timed, Looks):
    """A job ``a`` that has reported, and whose instance asks."""

    def __init__(self, client: redis.Redis, devices: int = 0, **more: Any) -> None:
        client.flushdb()
        self.client = client
        self.now = 1_000_000.0
        self.reader = Reader(client)
        self.line = Line(client, by="d1", site=SITE, devices={"t4": devices})
        self.line.open("t4")
        self.asker = self.run(self.take_in("a", **more))
        self.line.announce([T4], 30)

    def take_in(self, name: str, **more: Any) -> Record | None:
        record: Any = {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}
        record |= {"task": "t", "tenant": "blue", "reuse": 3}
        fields = {key: value for key, value in (record | more).items() if value is not None}
        granted = self.line.take_in(T4, fields, '{"body": "[]"}').granted  # type: ignore[arg-type]
        return granted[0] if granted else None

    def run(self, record: Record | None, *, ends: bool = True) -> ExecutorAttempt:
        assert record is not None
        executor = ExecutorAttempt(self.client, Attempt.of(record), record["token"])
        executor.claim(ME.instance, "w")
        if ends:
            self.end(executor)
        return executor

    def end(self, executor: ExecutorAttempt) -> None:
        executor.report("SUCCEEDED")
        assert executor.reported(1000)

    def ask(
        self, me: WarmInstance = ME, *, reuses: bool = True, ended: End | None = None
    ) -> str | None:
        """The delivery that the instance gets; it goes on as that."""
        taken = self.asker.take_next(me, reuses=reuses, ended=ended)
        if taken is None:
            return None
        self.asker, record, message = taken
        assert message == {"body": "[]"}
        return record["delivery"]

    def dumped(self) -> dict[str, Any]:
        pool = self.client.connection_pool.connection_kwargs
        with redis.Redis(host=pool["host"], port=pool["port"]) as client:
            return {key: client.dump(key) for key in class_keys("t4")}


@pytest.fixture
def world(schedule_redis: redis.Redis) -> World:
    return World(schedule_redis)


def test_it_is_claimed_and_runs_in_the_step_that_frees_the_last(world: World) -> None:
    world.take_in("b", time_limit=60.0)
    world.now += 5
    assert world.ask(replace(ME, loads_within=20.0)) == "b"
    record = world.record("b")
    assert (record["state"], record["instance"]) == ("running", ME.instance)
    assert (record["started"], record["launched"], record["admitted"]) == (world.now,) * 3
    assert record["worker"] == world.asker.attempt.worker(HOST)
    assert (record["warm_of"], record["warm_after"], record["warm_turn"]) == ("a#1", "a#1", 2)
    assert world.record("a")["released"] == world.now
    assert world.holders() == ["b#1"]
    assert world.client.zrange(class_key("t4", "deadlines"), 0, -1, withscores=True) == [
        ("b#1", world.now + 20.0)
    ]
    assert world.client.zcard(class_key("t4", "launching")) == 0


def test_a_job_without_a_slot_of_the_leader_is_not_given(world: World) -> None:
    world.take_in("b")
    world.line.set_bounds([replace(T4, shared_slots=0)], ":t4", 30)
    assert world.ask() is None


def test_a_lost_answer_is_given_again_while_the_job_runs(world: World) -> None:
    world.take_in("b")
    asked = world.asker
    assert world.ask() == "b"
    given = world.asker
    again = asked.take_next(ME, reuses=True)
    assert again is not None
    assert (again[0].attempt, again[0].token) == (given.attempt, given.token)
    world.end(given)
    world.take_in("c")
    assert asked.take_next(ME, reuses=True) is None, "it has gone on"
    assert world.holders() == ["b#1"]


def test_a_process_asks_again_while_no_job_can_start(world: World) -> None:
    asked: list[str] = []

    def pauses(then: dict[str, Any]) -> Iterator[float]:
        asked.append("again")
        yield 0.0
        world.take_in(**then)
        asked.append("again")
        yield 0.0
        raise AssertionError("it has its answer by now")

    taken = world.asker.take_next(ME, reuses=True, pauses=pauses({"name": "b"}))
    assert taken and taken[1]["delivery"] == "b"
    world.asker = taken[0]
    world.end(world.asker)
    other = {"name": "c", "task": "another"}
    assert world.asker.take_next(ME, reuses=True, pauses=pauses(other)) is None
    assert len(asked) == 4
    assert world.holders() == ["b#1"], "it is free when the process has ended"


def test_the_end_of_the_process_is_that_of_its_last_attempt(world: World) -> None:
    first = world.asker.attempt
    for name in ("b", "c"):
        world.take_in(name)
        assert world.ask() == name
        assert world.asker.loaded()
        if name == "b":
            world.end(world.asker)
    released = world.line.release(T4, first, explain(-9), ME.instance)
    assert (released.attempt.holder, released.freed, released.state) == ("c#1", True, "finishing")
    assert world.record("c")["reason"] == explain(-9).reason
    assert world.holders() == []
    assert world.line.release(T4, first, explain(-9), ME.instance).freed is False


def test_a_process_runs_as_many_jobs_as_both_allow(world: World) -> None:
    for name in ("b", "c", "d"):
        world.take_in(name)
    assert world.ask() == "b"
    world.end(world.asker)
    assert world.ask() == "c"
    world.end(world.asker)
    before = world.dumped()
    assert world.ask() is None, "it was its third"
    assert world.dumped() == before


@pytest.mark.parametrize("reuses", [(3, 50, 50), (50, 3, 50)], ids=["first", "second"])
def test_a_process_runs_no_more_than_any_of_its_jobs_allows(
    schedule_redis: redis.Redis, reuses: tuple[int, int, int]
) -> None:
    world = World(schedule_redis, reuse=reuses[0])
    for name, reuse in (("b", reuses[1]), ("c", reuses[2]), ("d", 50)):
        world.take_in(name, reuse=reuse)
    for name in ("b", "c"):
        assert world.ask() == name
        world.end(world.asker)
    assert world.ask() is None, "one of them allowed three"


@pytest.mark.parametrize(
    "other",
    [
        {"task": "other"},
        {"tenant": "red"},
        {"tenant": None},
        {"image": "shop:2"},
        {"reuse": None},
        {"reuse": 1},
        {"isolation": "exclusive"},
        {"container": {"image": "cuda"}},
    ],
    ids=lambda other: "-".join(f"{name}-{value}" for name, value in other.items()),
)
def test_a_first_job_that_does_not_fit_ends_the_reuse(world: World, other: dict[str, Any]) -> None:
    world.take_in("b", **other)
    world.take_in("c")
    before = world.dumped()
    assert world.ask() is None
    assert world.dumped() == before, "its slot is free when its process has ended"
    released = world.line.release(T4, world.asker.attempt, instance=ME.instance)
    assert [each["delivery"] for each in released.granted] == ["b"]


def test_an_exclusive_job_whose_turn_it_is_ends_the_reuse(world: World) -> None:
    world.take_in("b")
    world.take_in("x", isolation="exclusive")
    world.take_in("c")
    assert world.ask() == "b", "it came before the exclusive job"
    world.end(world.asker)
    assert world.ask() is None, "the next is first in line"
    assert world.holders() == ["b#1"]


def test_an_instance_without_a_process_gives_its_slot_up(world: World) -> None:
    world.take_in("b", tenant="red")
    assert world.ask(reuses=False) is None
    assert world.holders() == []
    assert world.client.lrange(wake_key("t4"), 0, -1) == ["1"], "b is started cold"
    assert [each["delivery"] for each in world.line.admit(T4)] == ["b"]
    assert world.record("a")["released"] == world.now


def test_an_instance_may_take_another_task_after_its_executor_died(
    schedule_redis: redis.Redis,
) -> None:
    world = World(schedule_redis)
    world.take_in("b", task="u", reuse=None, warm=60.0)
    assert world.ask(reuses=False) == "b"
    assert world.asker.loaded()
    world.take_in("c", warm=60.0)
    assert world.ask(reuses=False) is None, "b runs, and no end of it was seen"
    assert world.ask(reuses=False, ended=explain(1)) == "c"
    assert (world.record("b")["state"], world.record("b")["reason"]) == ("finishing", "ERROR")


TERMS: dict[str, Any] = {
    "another application": {"application": "other"},
    "another site": {"site": "h2"},
    "other settings": {"settings": "v1"},
}


@pytest.mark.parametrize("what", [*TERMS, "silence", "damaged", "closed", "other server"])
def test_without_terms_that_hold_no_job_is_given(world: World, what: str) -> None:
    world.take_in("b")
    me = replace(ME, **TERMS.get(what, {}))
    if what == "silence":
        world.now += 31
    elif what == "damaged":
        world.client.hset(class_key("t4", "terms"), HOST, "{")
    elif what == "closed":
        world.client.hdel(class_key("t4", "gate"), "opened")
    elif what == "other server":
        opened: Any = world.client.hget(class_key("t4", "gate"), "opened")
        world.client.hset(class_key("t4", "gate"), "opened_on", f"{opened} another")
    assert world.ask(me) is None
    assert world.holders() == ["a#1"]
    world.line.open("t4")
    world.line.announce([T4], 30)
    assert world.ask() == "b"


def test_terms_are_those_that_were_written_last(world: World) -> None:
    world.take_in("b")
    world.line.announce([replace(T4, shared_slots=0)], 30)
    assert world.ask() is None
    world.line.max_attempts = 1
    world.line.announce([T4], 30)
    assert world.ask() == "b"
    kept = json.loads(world.client.hget(class_key("t4", "terms"), HOST) or "")
    assert (kept["max_attempts"], kept["by"], world.record("b")["by"]) == (1, "d1", "d1")


def test_terms_of_a_site_that_is_gone_are_forgotten(world: World) -> None:
    world.now += 3700
    Line(world.client, by="d2", site=Site("h2", "shop")).announce([T4], 30)
    assert world.client.hkeys(class_key("t4", "terms")) == ["h2"]


def test_an_instance_that_is_being_stopped_gets_no_job(world: World) -> None:
    world.take_in("b")
    world.now += 100  # the deadline of its process
    world.line.announce([T4], 30)
    world.line.tick("t4")
    assert world.ask() is None
    assert world.holders() == ["a#1"]


def test_an_instance_whose_slot_was_freed_gets_no_job(world: World) -> None:
    world.line.release(T4, world.asker.attempt, instance=ME.instance)
    world.take_in("x", isolation="exclusive")
    world.line.cancel("t4", "x")
    assert world.ask() is None


def test_an_instance_whose_first_attempt_is_forgotten_gets_no_job(world: World) -> None:
    world.take_in("b")
    assert world.ask() == "b"
    world.end(world.asker)
    world.client.hdel(class_key("t4", "jobs"), "a")
    world.take_in("c")
    assert world.ask() is None, "its end could not be told to be that of c"


def test_another_instance_gets_no_job(world: World) -> None:
    world.take_in("b")
    assert world.ask(replace(ME, instance="gpu-box:n:2")) is None
    assert world.holders() == ["a#1"]


def test_it_keeps_its_own_gpu_while_that_is_one_of_the_class(schedule_redis: redis.Redis) -> None:
    world = World(schedule_redis, devices=2)
    assert world.record("a")["device"] == 0
    world.take_in("b")
    world.line.site = Site(HOST, "shop", {"t4": ["GPU-2", "GPU-1"]})
    world.line.announce([T4], 30)
    assert world.ask() is None, "index 0 is another GPU by now"
    world.line.site = SITE
    world.line.announce([T4], 30)
    assert world.ask() == "b"
    assert world.record("b")["device"] == 0
    assert world.client.hgetall(class_key("t4", "devices")) == {"b#1": "0"}


def test_a_place_that_has_failed_gets_a_cold_start(schedule_redis: redis.Redis) -> None:
    world = World(schedule_redis, devices=2)
    world.take_in("b")
    entry = {"failures": 1, "jobs": {"z": ["z", 1]}, "last": world.now, "since": world.now}
    world.client.hset(class_key("t4", "places"), f"device:{HOST}/GPU-1", json.dumps(entry))
    assert world.ask() is None
    assert world.client.hkeys(class_key("t4", "places")) == [f"device:{HOST}/GPU-1"]


def test_fields_of_a_later_version_are_kept(world: World) -> None:
    world.take_in("b", later="text")
    assert world.ask() == "b"
    assert dict(world.record("b"))["later"] == "text"


def test_a_user_with_the_rights_of_an_older_file_changes_nothing(world: World) -> None:
    world.take_in("b")
    pool = world.client.connection_pool.connection_kwargs
    commands = "ping evalsha script|load hget hset hincrby hdel zadd zrem zrange zscore zcount time"
    world.client.acl_setuser(
        "old",
        enabled=True,
        passwords="+x",
        keys=["gpuqueue:*:{*}:*"],
        commands=[f"+{each}" for each in commands.split()],
    )
    before = world.dumped()
    try:
        with redis.Redis(
            host=pool["host"], port=pool["port"], username="old", password="x"
        ) as client:
            executor = ExecutorAttempt(client, world.asker.attempt, world.asker.token)
            with pytest.raises(redis.ResponseError, match=r"(?i)no ?perm"):
                executor.take_next(ME, reuses=True)
    finally:
        world.client.acl_deluser("old")
    assert world.dumped() == before


@pytest.mark.parametrize("code", [-9, 1, EXIT_NO_APPLICATION])
@pytest.mark.parametrize("limit", [None, 60.0, 5.0])
@pytest.mark.parametrize("loads_within", [None, 20.0])
def test_a_process_that_died_on_the_way_gives_its_job_another_attempt(
    world: World, loads_within: float | None, limit: float | None, code: int
) -> None:
    world.take_in("b", time_limit=limit)
    first = world.asker.attempt
    assert world.ask(replace(ME, loads_within=loads_within)) == "b"
    assert f"application:shop@{HOST}" in world.record("b")["places"]
    released = world.line.release(T4, first, explain(code), ME.instance)
    assert (released.attempt.holder, released.state) == ("b#1", "delayed")
    record = world.record("b")
    assert not record.get("warm_of") and not record.get("warm_turn")
    assert not world.client.hkeys(class_key("t4", "places")), "earlier jobs may be at fault"


def test_a_process_that_died_in_its_next_task_fails_that_job(world: World) -> None:
    world.take_in("b", time_limit=5.0)
    assert world.ask(replace(ME, loads_within=20.0)) == "b"
    assert world.asker.loaded()
    released = world.line.release(T4, world.asker.attempt, explain(1), ME.instance)
    assert (released.state, world.record("b")["reason"]) == ("finishing", "ERROR")
