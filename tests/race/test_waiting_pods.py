"""Jobs that come, and pods that leave, at the same moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import explain
from gpuqueue.model.record import Record
from gpuqueue.store.attempts import ExecutorAttempt, WarmInstance
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader

pytestmark = pytest.mark.integration

Race = Callable[[int, Callable[[int], Any]], list[Any]]
SLOTS, ROUNDS = 5, 10
T4 = GpuClass("t4", shared_slots=SLOTS, exclusive_slots=1)


class Pod:
    """A pod that has run a job, and waits for another one."""

    def __init__(self, client: redis.Redis, granted: Record) -> None:
        self.attempt = Attempt.of(granted)
        self.me = WarmInstance(f"gpu/{granted['id']}/u", granted["id"], "cluster", "", stays=60.0)
        self.client = client
        self.executor = ExecutorAttempt(client, self.attempt, granted["token"])
        self.executor.claim(self.me.instance, "w")
        self.executor.report("SUCCEEDED")
        assert self.executor.reported(1000)

    def asks(self) -> str:
        taken = self.executor.take_next(self.me)
        return taken[1]["delivery"] if taken else ""

    def looks(self, *, leaves: bool) -> str:
        """The job that it is given, and claims."""
        found = self.executor.called(self.me.instance, self.attempt.holder, leaves=leaves)
        if isinstance(found, bool):
            return ""
        given = ExecutorAttempt(self.client, Attempt.of(found), found["token"])
        given.claim(self.me.instance, "w")
        return found["delivery"]


def submit(line: Line, name: str) -> list[Record]:
    record: Any = {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}
    return line.take_in(T4, record | {"task": "t", "warm": 60.0}, "{}").granted


def names_of(granted: list[Record]) -> list[str]:
    return [each["delivery"] for each in granted]


def holders(client: redis.Redis) -> list[str]:
    return sorted(attempt.delivery for attempt, _ in Reader(client).holders("t4"))


@pytest.fixture
def line(client: redis.Redis) -> Line:
    made = Line(client, owner="cluster")
    made.announce([T4], 600)
    return made


@pytest.mark.parametrize("comes", [3, 12])
def test_jobs_come_as_pods_leave_and_each_starts_once(
    client: redis.Redis, line: Line, race: Race, comes: int
) -> None:
    """Three pods leave, one looks, one is sent away with the oldest; dispatchers admit."""
    for turn in range(ROUNDS):
        pods = [Pod(client, submit(line, f"first{turn}-{number}")[0]) for number in range(SLOTS)]
        assert [pod.asks() for pod in pods] == [""] * SLOTS
        assert client.zcard(class_key("t4", "warm_until")) == SLOTS

        def contender(number: int, turn: int = turn, pods: list[Pod] = pods) -> list[str]:
            if number < comes:
                return names_of(submit(line, f"job{turn}-{number}"))
            pod = number - comes
            if pod < SLOTS - 1:
                return [pods[pod].looks(leaves=pod < 3)]
            return names_of(line.admit(T4)) if pod % 2 else [""] * line.send_away(["t4"], 1)

        started = [name for each in race(comes + SLOTS + 2, contender) for name in each]
        started += [pod.looks(leaves=True) for pod in pods if not ends(client, pod)]
        started = [name for name in started if name]
        assert max(Counter(started).values()) == 1
        assert sorted(started) == holders(client)
        assert len(started) == min(comes, SLOTS)
        assert client.zcard(class_key("t4", "warm_until")) == 0
        assert client.hlen(class_key("t4", "warm")) == 0
        client.flushdb()
        line.open("t4")
        line.announce([T4], 600)


def ends(client: redis.Redis, pod: Pod) -> bool:
    """Whether it has claimed another job."""
    last = (Reader(client).record("t4", pod.attempt.delivery) or {}).get("warm_last", "")
    found = Attempt.parse("t4", last)
    record = found and Reader(client).record("t4", found.delivery)
    return bool(record and record["state"] == "running")


def test_pods_that_end_as_jobs_come_lose_none_of_them(
    client: redis.Redis, line: Line, race: Race
) -> None:
    """Each pod ends without a word, perhaps with a job that it has not claimed."""
    for turn in range(ROUNDS):
        pods = [Pod(client, submit(line, f"first{turn}-{number}")[0]) for number in range(SLOTS)]
        assert [pod.asks() for pod in pods] == [""] * SLOTS

        def contender(number: int, turn: int = turn, pods: list[Pod] = pods) -> list[str]:
            if number < SLOTS:
                return names_of(submit(line, f"job{turn}-{number}"))
            pod = pods[number - SLOTS]
            released = line.release(T4, pod.attempt, explain(-9), pod.me.instance)
            return names_of(released.granted)

        started = [name for each in race(2 * SLOTS, contender) for name in each]
        states = {
            name: (Reader(client).record("t4", name) or {})["state"]
            for name in (f"job{turn}-{number}" for number in range(SLOTS))
        }
        assert set(states.values()) <= {"launching", "delayed"}, "no pod is left to run one"
        assert sorted(started) == sorted(n for n, each in states.items() if each == "launching")
        assert sorted(started) == holders(client)
        client.flushdb()
        line.open("t4")
        line.announce([T4], 600)


def test_pods_end_their_jobs_at_once_and_each_job_starts_once(
    client: redis.Redis, line: Line, race: Race
) -> None:
    """They ask for their next jobs while these come."""
    for turn in range(ROUNDS):
        pods = [Pod(client, submit(line, f"first{turn}-{number}")[0]) for number in range(SLOTS)]

        def contender(number: int, turn: int = turn, pods: list[Pod] = pods) -> list[str]:
            if number < SLOTS:
                return [pods[number].asks()]
            return names_of(submit(line, f"job{turn}-{number}"))

        started = [name for each in race(2 * SLOTS, contender) for name in each]
        started += [pod.looks(leaves=True) for pod in pods if not ends(client, pod)]
        started = sorted(name for name in started if name)
        assert started == sorted(f"job{turn}-{number}" for number in range(SLOTS, 2 * SLOTS))
        assert started == holders(client)
        client.flushdb()
        line.open("t4")
        line.announce([T4], 600)
