"""Many contenders, exactly as many winners as there are slots."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.errors import StaleAttempt
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.place import Site
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader

pytestmark = pytest.mark.integration

Race = Callable[[int, Callable[[int], Any]], list[Any]]
T4 = GpuClass("t4", shared_slots=5, exclusive_slots=1)


def record(name: str, isolation: str = "shared") -> Record:
    made: Record = {"delivery": name, "id": name, "isolation": isolation, "gpu_class": "t4"}
    return made | {"task": "t", "warm": 60.0}


def accept_many(line: Line, number: int, isolation: str = "shared") -> list[str]:
    names = [f"{isolation}{index}" for index in range(number)]
    for name in names:
        assert line.accept("t4", record(name, isolation), "{}") == "accepted"
    return names


def start_one(line: Line, name: str = "a", isolation: str = "shared") -> Record:
    line.accept("t4", record(name, isolation), "{}")
    [granted] = line.enqueue(T4, name)
    return granted


def executor_of(client: redis.Redis, granted: Record) -> ExecutorAttempt:
    return ExecutorAttempt(client, Attempt.of(granted), granted["token"])


def test_a_hundred_threads_enqueue_and_five_jobs_start(client: redis.Redis, race: Race) -> None:
    line = Line(client)
    names = accept_many(line, 100)
    granted = [
        each
        for answer in race(100, lambda number: line.enqueue(T4, names[number]))
        for each in answer
    ]
    assert len(granted) == 5
    assert (
        len({each["token"] for each in granted}) == len({each["delivery"] for each in granted}) == 5
    )
    assert len(Reader(client).holders("t4")) == 5
    assert client.zcard("gpuqueue:1:{t4}:waiting_shared") == 95


def test_a_hundred_exclusive_jobs_contend_and_one_starts(client: redis.Redis, race: Race) -> None:
    line = Line(client)
    names = accept_many(line, 100, "exclusive")
    granted = [
        each
        for answer in race(100, lambda number: line.enqueue(T4, names[number]))
        for each in answer
    ]
    assert len(granted) == len(Reader(client).holders("t4")) == 1


def test_several_processes_enqueue_and_five_jobs_start(
    race_server: EmbeddedRedis, client: redis.Redis
) -> None:
    program = Path(__file__).with_name("contender.py")
    command = [sys.executable, str(program), race_server.url]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    contenders = [subprocess.Popen([*command, str(number), "25"], **pipes) for number in range(4)]
    assert [each.stdout.readline() for each in contenders if each.stdout] == ["ready\n"] * 4
    for each in contenders:
        assert each.stdin
        each.stdin.write("go\n")
        each.stdin.flush()
    granted = [pair for each in contenders for pair in json.loads(each.communicate(timeout=30)[0])]
    assert len(granted) == len({token for _, token in granted}) == 5
    assert {attempt.delivery for attempt, _ in Reader(client).holders("t4")} == {
        delivery for delivery, _ in granted
    }


def test_many_ask_what_may_start_and_each_job_starts_once(client: redis.Redis, race: Race) -> None:
    line = Line(client)
    closed = GpuClass("t4")
    for name in accept_many(line, 30):
        assert line.enqueue(closed, name) == []
    granted = [each for answer in race(50, lambda _: line.admit(T4)) for each in answer]
    assert sorted(each["delivery"] for each in granted) == sorted(
        f"shared{index}" for index in range(5)
    )


def test_fifty_processes_claim_one_attempt_and_one_gets_it(client: redis.Redis, race: Race) -> None:
    executor = executor_of(client, start_one(Line(client)))

    def claim(number: int) -> str:
        try:
            executor.claim(f"h:n:{number}", "w")
        except StaleAttempt as exc:
            return str(exc)
        return f"h:n:{number}"

    answers = race(50, claim)
    winners = [each for each in answers if each.startswith("h:n:")]
    assert len(winners) == 1
    assert set(answers) - set(winners) == {"a attempt 1: state running"}
    kept = Reader(client).record("t4", "a")
    assert kept and kept["instance"] == winners[0]


def test_the_winner_may_claim_again_from_many_connections(client: redis.Redis, race: Race) -> None:
    executor = executor_of(client, start_one(Line(client)))
    tokens = race(20, lambda _: executor.claim("h:n:1", "w")[0]["token"])
    assert set(tokens) == {executor.token}


def test_a_release_repeated_by_fifty_frees_once_and_starts_one_next(
    client: redis.Redis, race: Race
) -> None:
    line = Line(client)
    one = start_one(line, "first", "exclusive")
    for name in accept_many(line, 10, "exclusive"):
        line.enqueue(T4, name)
    released = race(50, lambda _: line.release(T4, Attempt.of(one), End(EndReason.BAD_SPEC, "")))
    assert sum(each.freed for each in released) == 1
    assert [record["delivery"] for each in released for record in each.granted] == ["exclusive0"]
    assert {each.state for each in released} == {"finishing"}


def test_fifty_finishers_contend_and_one_writes_the_result(client: redis.Redis, race: Race) -> None:
    line = Line(client)
    accept_many(line, 1)
    assert line.cancel("t4", "shared0") == "cancelled"
    answers = race(50, lambda number: line.finish_claim("t4", "shared0", f"f{number}", 60)[0])
    assert sorted(set(answers)) == ["busy", "ok"] and answers.count("ok") == 1
    ended = race(50, lambda number: line.finished("t4", "shared0", f"f{number}", "CANCELLED"))
    assert [number for number, done in enumerate(ended) if done] == [answers.index("ok")]


def test_one_delivery_brought_by_twenty_is_accepted_once(client: redis.Redis, race: Race) -> None:
    line = Line(client)
    answers = race(20, lambda _: line.accept("t4", record("a"), "{}"))
    assert sorted(answers) == ["accepted"] + ["known"] * 19
    granted = [each for answer in race(20, lambda _: line.enqueue(T4, "a")) for each in answer]
    assert [(each["delivery"], each["attempt"]) for each in granted] == [("a", 1)]


def test_an_instance_that_asks_fifty_times_at_once_gets_one_job(
    client: redis.Redis, race: Race
) -> None:
    line = Line(client, site=Site("h"))
    asker = asking(client, line, start_one(line, "first", "exclusive"))
    for name in accept_many(line, 10, "exclusive"):
        line.enqueue(T4, name)
    given = race(50, lambda _: asker.take_next(WarmInstance("h:n:1", "h", "h", "")))
    kept = Reader(client).record("t4", "exclusive0")
    assert kept and {each and each[1]["token"] for each in given} == {kept["token"]}
    assert [attempt.holder for attempt, _ in Reader(client).holders("t4")] == ["exclusive0#1"]


def test_warm_and_cold_starts_at_once_fill_the_slots_once(client: redis.Redis, race: Race) -> None:
    """Four instances ask, one ends in the usual way, and dispatchers ask what may start."""
    line = Line(client, site=Site("h"))
    askers = [
        asking(client, line, start_one(line, f"first{number}"), number) for number in range(5)
    ]
    for name in accept_many(line, 30):
        line.enqueue(T4, name)

    def contender(number: int) -> list[str]:
        if number < 4:
            found = askers[number].take_next(WarmInstance(f"h:n:{number}", "h", "h", ""))
            return [found[1]["delivery"]] if found else []
        if number == 4:
            ended = line.release(T4, askers[4].attempt, instance="h:n:4")
            return [each["delivery"] for each in ended.granted]
        return [each["delivery"] for each in line.admit(T4)]

    started = [name for answer in race(10, contender) for name in answer]
    assert sorted(started) == sorted(f"shared{index}" for index in range(5))
    assert {attempt.delivery for attempt, _ in Reader(client).holders("t4")} == set(started)


def asking(client: redis.Redis, line: Line, granted: Record, number: int = 1) -> ExecutorAttempt:
    """The attempt of an instance that has reported, and may ask for its next job."""
    line.announce([T4], 60)
    executor = executor_of(client, granted)
    executor.claim(f"h:n:{number}", "w")
    executor.report("SUCCEEDED")
    assert executor.reported(1000)
    return executor


def test_a_cancel_and_a_report_at_once_agree_on_one_end(client: redis.Redis, race: Race) -> None:
    line = Line(client)
    for turn in range(20):
        granted = start_one(line, f"a{turn}")
        executor = executor_of(client, granted)
        executor.claim("h:n:1", "w")

        def contender(
            number: int, job_id: str = granted["id"], executor: ExecutorAttempt = executor
        ) -> str:
            if number:
                return line.cancel("t4", job_id)
            try:
                executor.report("SUCCEEDED")
            except StaleAttempt:
                return "dropped"
            return "reported"

        assert race(2, contender) in (["reported", "finishing"], ["dropped", "stopping"])
        line.release(T4, executor.attempt, instance="h:n:1")
