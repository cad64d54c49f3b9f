"""``gpuqueue.why``: the reason, who holds the slots, the place, and the range of the start."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

import gpuqueue
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.commands import why as command
from gpuqueue.cli.view import render
from gpuqueue.cli.view.start import start_range
from gpuqueue.explain import Explanation, StartRange, explain, forecast
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.clock import redis_time
from gpuqueue.store.keys import CLASSES, GROUPS
from gpuqueue.store.lease import group_of
from tests.property.open_class import OpenClass
from tests.support.model_time import KEY

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=1, exclusive_slots=1).on(2)
ROUND_TRIPS = 12


class Queue(OpenClass):
    """A class of two GPUs, at the time of Redis."""

    def __init__(self, client: redis.Redis, gpu_class: GpuClass = T4) -> None:
        super().__init__(client, devices={"t4": gpu_class.domains})
        self.gpu_class = gpu_class
        client.delete(KEY)
        client.hset(CLASSES, "t4", json.dumps(gpu_class.public()))
        client.zadd(GROUPS, {group_of("", ["t4"]): redis_time(client)})

    def send(self, name: str, isolation: str = "shared", **more: Any) -> None:
        record: Any = {"delivery": name, "id": name, "isolation": isolation, "gpu_class": "t4"}
        record |= {"task": "train"} | more
        taken = self.line.take_in(self.gpu_class, record, "{}")
        for granted in taken.granted:
            attempt = Attempt.of(granted)
            ExecutorAttempt(self.client, attempt, granted["token"]).claim("h:n:1", "w")

    def why(self, name: str) -> Explanation:
        return explain(self.client, name)


def counted(act: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    """Note each call."""

    def also(*args: Any, **more: Any) -> Any:
        calls.append(act.__name__)
        return act(*args, **more)

    return also


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def test_a_waiting_job_is_explained(queue: Queue) -> None:
    queue.send("a", time_limit=50)
    queue.send("b", time_limit=70, tenant="vision")
    queue.send("c", time_limit=20)
    queue.send("d", time_limit=20)
    found = queue.why("d")
    assert (found.id, found.gpu_class, found.state) == ("d", "t4", "waiting")
    assert (found.reason, found.place) == ("NO_FREE_SLOT", 2)
    assert [(each.id, each.domain, each.tenant) for each in found.holders] == [
        ("a", "0", ""),
        ("b", "1", "vision"),
    ]
    assert found.start and found.start.holds == 0.8
    assert found.start.earliest and found.start.latest
    assert 0 < found.start.earliest < found.start.latest <= 90


def test_nothing_is_said_of_the_start_without_a_limit_or_a_run(queue: Queue) -> None:
    for name in ("a", "b", "c"):
        queue.send(name)
    start = queue.why("c").start
    words = "no run times of train, and no time limit, are known"
    assert start == StartRange(None, None, unknown=words)


def test_a_job_that_does_not_wait_has_no_start(queue: Queue) -> None:
    queue.send("a")
    found = queue.why("a")
    assert (found.state, found.reason, found.start, found.holders) == ("running", None, None, ())
    [(attempt, _)] = queue.reader.holders("t4")
    queue.line.release(T4, attempt, End(EndReason.BAD_SPEC, "over"), "h:n:1")
    assert queue.why("a").state == "finishing"


def test_a_delayed_job_starts_when_it_is_due(queue: Queue) -> None:
    queue.send("a", eta=redis_time(queue.client) + 600)
    start = queue.why("a").start
    assert start and start.earliest and 590 < start.earliest <= 600


def test_an_end_that_no_job_brings_is_not_forecast(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis, GpuClass("t4", shared_slots=1))
    queue.send("a", time_limit=5)
    queue.send("b", time_limit=5)
    queue.client.hdel("gpuqueue:1:{t4}:gate", "opened")
    start = queue.why("b").start
    assert start and start.unknown == "when REPAIRING ends is not known"


def test_no_start_is_forecast_without_a_dispatcher(queue: Queue) -> None:
    for name in ("a", "b", "c"):
        queue.send(name, time_limit=5)
    queue.client.zadd(GROUPS, {group_of("", ["t4"]): redis_time(queue.client) - 20})
    found = queue.why("c")
    assert found.reason == "NO_DISPATCHER"
    assert found.start and found.start.unknown == "when NO_DISPATCHER ends is not known"
    assert (queue.why("a").state, queue.why("a").reason) == ("running", None)


def test_no_start_is_forecast_after_the_job_expires(queue: Queue) -> None:
    now = redis_time(queue.client)
    for name in ("a", "b"):
        queue.send(name, time_limit=1000)
    queue.send("c", time_limit=5, expires=now + 1)
    queue.send("d", time_limit=5, expires=now + 5000)
    start = queue.why("c").start
    assert start and start.unknown == "it will most likely expire before that"
    assert (start := queue.why("d").start) and start.earliest and start.latest


def test_an_unknown_job_is_named(queue: Queue) -> None:
    with pytest.raises(gpuqueue.UnknownJob, match="id='none' is not known; send it to the queue"):
        queue.why("none")


def test_the_function_of_the_package_connects(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis)
    queue.send("a", time_limit=5)
    known = schedule_redis.connection_pool.connection_kwargs
    url = f"redis://{known['host']}:{known['port']}/{known['db']}"
    assert gpuqueue.why("a", redis_url=url).state == "running"


def test_a_change_is_forecast_beside_the_truth(queue: Queue) -> None:
    for name in ("a", "b", "c", "d"):
        queue.send(name, time_limit=1000)
    record = queue.reader.record("t4", "d")
    assert record
    start, other = forecast(queue.client, T4, record, "NO_FREE_SLOT", {"slots": 9})
    assert start.earliest and start.earliest > 0
    assert other and (other.earliest, other.latest) == (0, 0)
    assert forecast(queue.client, T4, record, "NO_FREE_SLOT", {})[1] is None


def test_a_forecast_costs_few_round_trips(queue: Queue) -> None:
    for number in range(100):
        queue.send(f"j{number}", time_limit=1, tenant=f"t{number % 20}")
    calls: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("execute_command", "pipeline"):
            patch.setattr(queue.client, name, counted(getattr(queue.client, name), calls))
        assert queue.why("j99").start
    assert len(calls) <= ROUND_TRIPS


def test_the_command_shows_the_range(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {"earliest": 65.0, "latest": 7500.0, "holds": 0.8, "unknown": None}
    words = start_range(shown, 0.0)
    assert words.endswith("(in 1m 5s to 2h 5m; 80% of starts)") and words.startswith("between ")
    assert start_range({**shown, "latest": None}, 0.0).startswith("later than ")
    assert start_range({**shown, "earliest": None, "unknown": "no runs"}, 0.0) == (
        "not known: no runs"
    )
    found: dict[str, Any] = {
        "id": "a",
        "gpu_class": "t4",
        "isolation": "shared",
        "state": "waiting",
    }
    found |= dict.fromkeys(("reason", "error"))
    found |= {"cancel_asked": False, "dispatchers": ["d"], "start": shown}
    found |= {"if": {"slots": 9, "start": {**shown, "latest": None}}}
    command.show(render.console(), found, 0.0)
    printed = capsys.readouterr().out
    assert "start: between" in printed and "start if slots=9: later than" in printed
