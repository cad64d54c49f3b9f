"""What a job costs Redis: counted, not timed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.line import Line
from tests.support.model_time import KEY

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=1, exclusive_slots=1)
#: Round trips of one job: take_in, launched, claim, report, reported, release.
ROUND_TRIPS = 6
#: Commands within those scripts at most, for a job that starts at once.
COMMANDS = 79


def way_of(client: redis.Redis) -> Callable[[str], None]:
    line = Line(client)

    def run(name: str) -> None:
        [granted] = line.take_in(
            T4,
            {
                "delivery": name,
                "id": name,
                "isolation": "exclusive",
                "gpu_class": "t4",
                "priority": 0,
            },
            "{}",
        ).granted
        attempt = Attempt("t4", name, 1)
        line.launched(attempt, "h:n:1", 60)
        executor = ExecutorAttempt(client, attempt, granted["token"])
        executor.claim("h:n:1", "w")
        executor.report("SUCCEEDED")
        executor.reported(1000)
        line.release(GpuClass("t4"), attempt, instance="h:n:1")

    return run


def commands_of(client: redis.Redis, step: Callable[[], None]) -> tuple[int, int]:
    """Return (round trips, commands within scripts) of a step."""
    client.config_resetstat()
    step()
    calls = {
        name.removeprefix("cmdstat_"): int(each["calls"])
        for name, each in client.info("commandstats").items()
    }
    scripts = calls.pop("evalsha", 0)
    outside = sum(calls.pop(name, 0) for name in ("config|resetstat", "config", "info", "ping"))
    assert outside <= 2
    return scripts, sum(calls.values())


@pytest.mark.parametrize("waiting", [0, 300])
def test_a_job_costs_six_round_trips_however_long_the_line(
    schedule_redis: redis.Redis, waiting: int
) -> None:
    schedule_redis.flushdb()
    schedule_redis.set(KEY, "1000")  # as many commands as the time of Redis
    run, line = way_of(schedule_redis), Line(schedule_redis)
    line.open("t4")
    run("first")  # loads the scripts
    for number in range(waiting):
        name = f"w{number}"
        line.take_in(
            GpuClass("t4"),
            {
                "delivery": name,
                "id": name,
                "isolation": "exclusive",
                "gpu_class": "t4",
                "priority": 9,
            },
            "{}",
        )
    trips, commands = commands_of(schedule_redis, lambda: run("a"))
    assert trips == ROUND_TRIPS
    assert commands <= COMMANDS
