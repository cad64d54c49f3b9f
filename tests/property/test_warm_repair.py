"""The repair of a leader beside an instance that has gone on to another attempt."""

from __future__ import annotations

import pytest
import redis

from gpuqueue.model.place import Site
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from tests.property.older_state import T4, OlderState, Process, finish

pytestmark = pytest.mark.integration


@pytest.fixture
def world(schedule_redis: redis.Redis) -> OlderState:
    made = OlderState(schedule_redis)
    made.line.site = Site("h")
    return made


def go_on(world: OlderState) -> tuple[Process, ExecutorAttempt]:
    """``a`` has ended, and its process has gone on to ``b``; its launcher does not know that."""
    [process] = world.launch(world.submit("a", reuse=3))
    process.executor.claim(process.instance, "w")
    assert not world.submit("b", reuse=3)
    assert finish(process)
    world.line.announce([T4], 600)
    me = WarmInstance(process.instance, "h", "h", "", loads_within=60.0)
    taken = process.executor.take_next(me, reuses=True)
    assert taken is not None
    return process, taken[0]


def test_an_instance_listed_under_an_earlier_attempt_is_no_stray(world: OlderState) -> None:
    process, executor = go_on(world)
    world.look(4)
    assert (world.machine.stopped, world.holders()) == ([], ["b#1"])
    executor.report("SUCCEEDED")
    assert executor.reported(1000)
    world.ends(process)
    assert (world.holders(), world.record("b")["reason"]) == ([], "SUCCEEDED")


def test_an_end_that_no_dispatcher_has_seen_is_that_of_the_last_attempt(
    world: OlderState,
) -> None:
    process, _ = go_on(world)
    world.machine.living.remove(process)
    world.look(3)
    assert world.holders() == []
    assert world.record("a")["reason"] == "SUCCEEDED"
    assert world.record("b")["state"] == "delayed", "its code never ran"


def test_a_state_from_before_the_step_starts_the_job_again(world: OlderState) -> None:
    [process] = world.launch(world.submit("a", reuse=3))
    process.executor.claim(process.instance, "w")
    world.submit("b", reuse=3)
    assert finish(process)
    before = world.keep()
    world.line.announce([T4], 600)
    me = WarmInstance(process.instance, "h", "h", "")
    taken = process.executor.take_next(me, reuses=True)
    assert taken is not None
    world.come_back_with(before)
    assert finish(Process(world.client, taken[1], process.instance)) is False, "its token is void"
    world.ends(process)
    [again] = world.machine.living
    again.executor.claim(again.instance, "w")
    assert finish(again)
    assert world.record("b")["reason"] == "SUCCEEDED"
