"""What a job costs Redis: counted, not timed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice
from typing import Any

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
COMMANDS = 84
#: The same of a start, and of a release that starts the next job, in a class of nodes with tenants.
START, HANDOVER = 82, 116
#: Of a release in a class of many nodes, while a job of several GPUs is the first in line: it looks
#: at the 64 nodes that may be free soonest.
SEVERAL_WAIT = 300


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


def commands_of(
    client: redis.Redis, step: Callable[[], None], decisions: int = 1
) -> tuple[int, int]:
    """Return (round trips, commands within scripts) of a step with so many decisions."""
    client.config_resetstat()
    step()
    calls = {
        name.removeprefix("cmdstat_"): int(each["calls"])
        for name, each in client.info("commandstats").items()
    }
    scripts = calls.pop("evalsha", 0)
    outside = sum(calls.pop(name, 0) for name in ("config|resetstat", "config", "info", "ping"))
    assert outside <= 1 + decisions
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


NODES = GpuClass("t4", shared_slots=2, exclusive_slots=1, domain="node")


def crowd(client: redis.Redis, domains: int, tenants: int) -> Callable[[int], list[Attempt]]:
    """Make an empty class of so many nodes; return what takes a number of jobs of its tenants in,
    and returns those that start.
    """
    client.flushdb()
    client.set(KEY, "1000")
    line, names = Line(client), count()
    line.open("t4")
    line.set_nodes(NODES, {f"n{each}": {"shared": 2, "exclusive": 1} for each in range(domains)})

    def take_in(jobs: int) -> list[Attempt]:
        started: list[Attempt] = []
        for number in islice(names, jobs):
            record: Any = {"delivery": f"j{number}", "id": f"j{number}", "gpu_class": "t4"}
            record |= {"tenant": f"tenant-{number % tenants}", "time_limit": 10 + number}
            record |= {"isolation": "exclusive" if number % 4 == 3 else "shared", "priority": 0}
            started += map(Attempt.of, line.take_in(NODES, record, "{}").granted)
        return started

    return take_in


def cost_of_decisions(client: redis.Redis, domains: int, jobs: int, tenants: int) -> list[float]:
    """Return the commands of a start in an idle class, and of a release in a full one with so many
    jobs in line that starts another job.
    """
    take_in, line = crowd(client, domains, tenants), Line(client)
    running = take_in(1)  # loads the script, and the first tenant has the lines of tenants made
    start = commands_of(client, lambda: running.extend(take_in(8)), 8)[1] / 8
    running += take_in(jobs)

    def hand_over() -> None:
        for _ in range(20):
            gone = running.pop(len(running) // 2)
            running.extend(map(Attempt.of, line.release(NODES, gone).granted))

    return [start, commands_of(client, hand_over, 20)[1] / 20]


def test_decisions_cost_the_same_with_more_domains_jobs_and_tenants(
    schedule_redis: redis.Redis,
) -> None:
    few = cost_of_decisions(schedule_redis, 10, 60, 10)
    start, handover = few
    assert start <= START
    assert handover <= HANDOVER
    many = cost_of_decisions(schedule_redis, 80, 500, 100)
    for one, other in zip(many, few, strict=True):
        assert one <= 1.2 * other, (many, few)


BOXES = GpuClass("t4", shared_slots=2, exclusive_slots=4, domain="node")


def cost_while_several_wait(client: redis.Redis, domains: int) -> float:
    """Return the commands of a release in a full class that starts another job, while a job of
    several GPUs is the first in line.
    """
    client.flushdb()
    client.set(KEY, "1000")
    line, names, running = Line(client), count(), list[Attempt]()
    line.open("t4")
    line.set_nodes(BOXES, {f"n{each}": {"shared": 2, "exclusive": 4} for each in range(domains)})

    def take_in(jobs: int, **more: int) -> None:
        for number in islice(names, jobs):
            record: Any = {"delivery": f"j{number}", "id": f"j{number}", "gpu_class": "t4"}
            record |= {"isolation": "exclusive", "priority": 0, "time_limit": 10 + number, **more}
            running.extend(map(Attempt.of, line.take_in(BOXES, record, "{}").granted))

    def hand_over() -> None:
        for _ in range(10):
            gone = running.pop(len(running) // 2)
            running.extend(map(Attempt.of, line.release(BOXES, gone).granted))

    take_in(4 * domains)
    take_in(1, gpus=4)
    take_in(20)
    assert len(running) == 4 * domains
    hand_over()  # loads the script
    return commands_of(client, hand_over, 10)[1] / 10


def test_a_decision_is_bounded_while_a_job_of_several_gpus_waits(
    schedule_redis: redis.Redis,
) -> None:
    many, more = (cost_while_several_wait(schedule_redis, number) for number in (70, 140))
    assert many <= SEVERAL_WAIT
    assert more <= 1.02 * many
