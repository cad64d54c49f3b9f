"""The repair of a leader beside an instance that has gone on to another attempt."""

from __future__ import annotations

import pytest
import redis

from gpuqueue.model.attempt import Attempt, RunningAttempt
from gpuqueue.model.ends import explain
from gpuqueue.model.names import ISOLATIONS, SHARED
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


def take_next(world: OlderState, process: Process) -> None:
    """It goes on, as its launcher knows."""
    world.line.announce([T4], 600)
    taken = process.executor.take_next(WarmInstance(process.instance, "h", "h", ""), reuses=True)
    assert taken is not None
    process.executor, process.record, _ = taken


def ends_as(world: OlderState, process: Process, name: str) -> None:
    """It ends, as its launcher names it that has started it for this job."""
    world.machine.living.remove(process)
    world.on_end(RunningAttempt(Attempt("t4", name, 1), process.instance), explain(0))


STEPS = ("launched", "claimed", "loading", "reported", "written")


@pytest.mark.parametrize("known", [True, False], ids=["b is known", "b is lost"])
@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("step", STEPS)
def test_a_process_keeps_its_next_job_when_the_end_of_the_last_is_lost(
    world: OlderState, step: str, isolation: str, known: bool
) -> None:
    beside = world.launch(world.submit("beside", isolation)) if isolation == SHARED else []
    [process] = world.launch(world.submit("a", isolation, reuse=3))
    older = {}
    if known:
        assert not world.submit("b", isolation, reuse=3)
    for each in STEPS:
        if each == "claimed":
            process.executor.claim(process.instance, "w", 60.0 if step == "loading" else None)
        elif each == "reported":
            process.executor.report("SUCCEEDED")
        elif each == "written":
            process.executor.reported(1000)
        if each == step:
            older = world.keep()
    if not known:
        world.submit("b", isolation, reuse=3)
    take_next(world, process)
    world.come_back_with(older)
    world.look(3)
    assert world.machine.stopped == []
    assert sorted(world.holders()) == sorted(
        ["b#1", *(each.live.running.attempt.holder for each in beside)]
    )
    last, record = world.record("a"), world.record("b")
    assert (record["warm_of"], record["warm_turn"], last["warm_last"]) == ("a#1", 2, "b#1")
    if step == "written":
        assert (last["state"], last["reason"]) == ("ended", "SUCCEEDED")
    else:  # so that its stored result counts
        assert (last["state"], last["reason"], last["exit_code"]) == ("finishing", "ERROR", 0)
    assert finish(process)
    ends_as(world, process, "a")
    assert "b#1" not in world.holders() and world.record("b")["reason"] == "SUCCEEDED"


def lose_the_third(world: OlderState, isolation: str) -> Process:
    """A process runs ``c``, after ``a`` and ``b``, and the state is that of ``b``."""
    [process] = world.launch(world.submit("a", isolation, reuse=9))
    process.executor.claim(process.instance, "w")
    for name in ("b", "c"):
        assert not world.submit(name, isolation, reuse=9)
    assert finish(process)
    take_next(world, process)
    older = world.keep()
    assert finish(process)
    take_next(world, process)
    assert process.record["delivery"] == "c"
    world.come_back_with(older)
    assert "b#1" in world.holders() and world.record("c")["state"] == "waiting"
    return process


def test_a_third_job_that_is_started_again_runs_once(world: OlderState) -> None:
    [beside] = world.launch(world.submit("beside", SHARED))
    process = lose_the_third(world, SHARED)
    world.ends(beside)
    world.look(3)
    [again] = world.machine.of("c")
    assert again != process and world.machine.stopped == [process.instance]


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_third_job_whose_start_is_lost_keeps_its_process(
    world: OlderState, isolation: str
) -> None:
    beside = world.launch(world.submit("beside", isolation)) if isolation == SHARED else []
    process = lose_the_third(world, isolation)
    world.look(3)
    assert world.machine.stopped == []
    assert sorted(world.holders()) == sorted(
        ["c#1", *(each.live.running.attempt.holder for each in beside)]
    )
    last, record = world.record("b"), world.record("c")
    assert (last["state"], last["reason"], last["exit_code"]) == ("finishing", "ERROR", 0)
    assert (record["warm_of"], record["warm_after"], record["warm_turn"]) == ("a#1", "b#1", 3)
    assert finish(process)
    ends_as(world, process, "a")
    assert "c#1" not in world.holders() and world.record("c")["reason"] == "SUCCEEDED"


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
