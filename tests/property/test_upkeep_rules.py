"""Single rules of what is due, each where it alone decides."""

from __future__ import annotations

from typing import Any

import pytest

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.keys import NAMES, class_key
from gpuqueue.store.turn import Turn, Turns
from tests.property.one_job import T4, World

pytestmark = pytest.mark.integration


def turn(world: World) -> Turn:
    [found] = Turns(world.client, world.line).take([T4])
    assert isinstance(found, Turn) and not found.problems, found
    return found


def test_a_deadline_of_an_earlier_attempt_stops_no_later_one(world: World) -> None:
    world.bring("running")
    world.release(EndReason.INFRA)
    world.now += 5
    [granted] = turn(world).granted
    assert granted["attempt"] == 2
    assert world.call("claim", attempt=2, token=granted["token"])[0] == "ok"
    world.client.zadd(class_key("t4", "deadlines"), {"a#1": world.now - 1})
    assert turn(world).stopping == []
    record = world.record()
    assert record is not None and "timed_out" not in record


def test_an_attempt_is_to_stop_since_the_first_reason(world: World) -> None:
    world.bring("running")
    began = world.now
    world.line.cancel("t4", "a")
    world.client.zadd(class_key("t4", "deadlines"), {"a#1": world.now + 5})
    world.now += 6
    [(_, since)] = turn(world).stopping
    assert since == began


def test_the_end_of_an_old_tombstone_forgets_no_newer_delivery(world: World) -> None:
    world.bring("running")
    retry: Any = {"delivery": "a~1", "id": "a", "isolation": "shared", "gpu_class": "t4"}
    world.line.take_in(T4, retry | {"retries": 1, "eta": world.now + 5000}, "{}")
    world.call("report", outcome="RETRIED")
    world.call("reported")
    world.release(EndReason.ERROR)
    world.now += 1001
    turn(world)
    assert world.record() is None
    assert world.line.cancel("t4", "a") == "cancelled"
    record = world.reader.record("t4", "a~1")
    assert record is not None and record["state"] == "finishing"


def test_a_job_that_is_forgotten_leaves_nothing_behind(world: World) -> None:
    world.bring("running")
    retry: Any = {"delivery": "a~1", "id": "a", "isolation": "shared", "gpu_class": "t4"}
    [granted] = world.line.take_in(T4, retry | {"retries": 1}, "{}").granted
    world.call("report", outcome="RETRIED")
    world.call("reported")
    world.release(EndReason.ERROR)
    retried = {"delivery": "a~1", "token": granted["token"]}
    assert world.call("claim", **retried)[0] == "ok"
    assert world.call("report", **retried) == "ok" and world.call("reported", **retried)
    world.line.release(T4, Attempt("t4", "a~1", 1), instance="h:n:1")
    assert world.client.hget(class_key("t4", "latest"), "a") == "a~1"
    world.now += 1001
    turn(world)
    left = {name for name in NAMES if world.client.exists(class_key("t4", name))}
    assert left == {"gate", "counts", "history", "usage", "run_times", "run_times_last"}
