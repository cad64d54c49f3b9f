"""The run times that forecasts draw from: kept with the account of an attempt, and bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.forecast.run_times import RunTimes
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from gpuqueue.store.run_times import recent_run_time
from gpuqueue.store.snapshots import Snapshots
from gpuqueue.store.usage import RUN_TIMES, Capacities
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=1)
#: As lua/lib/accounting.lua has them.
MOST_RUNS, MOST_TASKS = 32, 512


class Queue(OpenClass):
    def run(self, name: str, seconds: float, *, claims: bool = True, **more: Any) -> None:
        record: Any = {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}
        record |= {"task": "train"} | more
        [granted] = self.line.take_in(T4, record, "{}").granted
        attempt = Attempt.of(granted)
        if claims:
            ExecutorAttempt(self.client, attempt, granted["token"]).claim("h:n:1", "w")
        self.now += seconds
        end = End(EndReason.BAD_SPEC, "over")
        assert self.line.release(T4, attempt, end, "h:n:1" if claims else "").freed

    def known(self, tenant: str = "") -> RunTimes:
        """What is read for a job of the task and a tenant that waits."""
        record: Any = {"delivery": "x", "id": "x", "isolation": "shared", "gpu_class": "t4"}
        record |= {"task": "train"} | ({"tenant": tenant} if tenant else {})
        self.line.take_in(GpuClass("t4", exclusive_slots=1), record, "{}")
        reader = Snapshots(self.client, T4)
        return reader.run_times(reader.read("x", self.now))

    def kept(self) -> dict[str, list[float]]:
        found: Any = self.client.hgetall(class_key("t4", "run_times"))
        assert set(found) == set(self.client.zrange(class_key("t4", "run_times_last"), 0, -1))
        return {name: json.loads(text) for name, text in found.items()}


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def test_run_times_are_kept_by_task_and_tenant(queue: Queue) -> None:
    queue.run("a", 5.0, tenant="vision")
    queue.run("b", 7.5)
    queue.run("c", 2.0, tenant="vision")
    queue.run("d", 9.0, claims=False)
    assert queue.kept() == {
        "shared:*:train": [2.0, 7.5, 5.0],
        "shared:vision:train": [2.0, 5.0],
    }, "an attempt that never began has none"
    known = queue.known("vision")
    assert dict(known.runs) == {
        ("shared", "train", ""): [2.0, 7.5, 5.0],
        ("shared", "train", "vision"): [2.0, 5.0],
    }
    assert [each.seconds for each in known.past] == [5.0, 7.5, 2.0, None]


def test_the_latest_runs_of_a_task_are_kept(queue: Queue) -> None:
    for number in range(MOST_RUNS + 3):
        queue.run(f"j{number}", float(number))
    assert queue.kept() == {"shared:*:train": [float(at) for at in range(34, 2, -1)]}


def test_a_long_name_is_cut_alike(queue: Queue) -> None:
    queue.run("a", 4.0, task="é" * 300)
    [name] = queue.kept()
    assert name == f"shared:*:{'é' * 100}"


def test_the_task_that_ran_longest_ago_makes_room(queue: Queue) -> None:
    names: Any = {f"shared:*:t{at}": "[1]" for at in range(MOST_TASKS)}
    queue.client.hset(class_key("t4", "run_times"), mapping=names)
    times = {name: at for at, name in enumerate(names)}
    queue.client.zadd(class_key("t4", "run_times_last"), times)
    queue.run("a", 3.0, tenant="vision")
    kept = queue.kept()
    assert len(kept) == MOST_TASKS
    assert not {"shared:*:t0", "shared:*:t1"} & kept.keys()
    assert kept["shared:vision:train"] == [3.0]


def test_a_task_that_has_not_run_for_long_is_forgotten(queue: Queue) -> None:
    queue.run("a", 3.0, task="old")
    queue.now += RUN_TIMES - 10
    queue.run("b", 4.0)
    queue.now += 11
    Capacities(queue.client, {"t4": T4}).note()
    assert queue.kept() == {"shared:*:train": [4.0]}


def test_a_damaged_key_keeps_no_slot(queue: Queue) -> None:
    queue.client.set(class_key("t4", "run_times"), "none")
    queue.run("a", 3.0)
    assert queue.reader.holders("t4") == []
    queue.client.delete(class_key("t4", "run_times"))
    queue.client.hset(class_key("t4", "run_times"), "shared:*:train", "none")
    queue.run("b", 4.0)
    assert queue.kept() == {"shared:*:train": [4.0]}


def test_a_class_has_a_recent_run_time_by_isolation(queue: Queue) -> None:
    assert recent_run_time(queue.client, "t4", "shared") is None
    for name, seconds in (("a", 5.0), ("b", 7.0), ("c", 30.0)):
        queue.run(name, seconds, tenant="vision", task="train" if name != "c" else "test")
    assert recent_run_time(queue.client, "t4", "shared") == 14.0
    assert recent_run_time(queue.client, "t4", "exclusive") is None
    queue.client.delete(class_key("t4", "run_times"))
    queue.client.set(class_key("t4", "run_times"), "damaged")
    assert recent_run_time(queue.client, "t4", "shared") is None
