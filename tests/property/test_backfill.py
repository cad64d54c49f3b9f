"""Jobs that start while the gate of a class of one domain is closed, since they end in time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.reasons import EndReason
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from tests.property.checks import check
from tests.property.drain import drain
from tests.property.model import ModelJob, Rules
from tests.property.open_class import OpenClass
from tests.property.world import World

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=4, exclusive_slots=1, exclusive_patience=1)
UNTIL = "*:until"


class Queue(OpenClass):
    """Jobs with time limits. ``running``: name → its attempt."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.running: dict[str, Attempt] = {}
        self.tokens: dict[str, str] = {}

    def _start(self, granted: Any) -> list[str]:
        for record in granted:
            self.running[record["delivery"]] = Attempt.of(record)
            self.tokens[record["delivery"]] = record["token"]
        return [record["delivery"] for record in granted]

    def send(
        self, name: str, limit: float | None = None, isolation: str = SHARED, **more: Any
    ) -> list[str]:
        """Accept a job; return what starts."""
        record: Any = {"delivery": name, "id": name, "isolation": isolation, "gpu_class": "t4"}
        record |= {"time_limit": limit} if limit else {}
        return self._start(self.line.take_in(T4, record | more, "{}").granted)

    def ends(self, name: str) -> list[str]:
        """End the attempt of a job; return what starts."""
        end = End(EndReason.ERROR, "gone")
        return self._start(self.line.release(T4, self.running.pop(name), end, "").granted)

    def executor(self, name: str) -> ExecutorAttempt:
        return ExecutorAttempt(self.client, self.running[name], self.tokens[name])

    def admit(self, gpu_class: GpuClass = T4) -> list[str]:
        return self._start(self.line.admit(gpu_class))

    def why(self, name: str) -> str:
        found = self.reader.why(T4, name)
        assert found is not None
        return found.reason

    @property
    def gate(self) -> dict[str, str]:
        found: dict[str, str] = self.client.hgetall(class_key("t4", "gate"))  # type: ignore[assignment]
        return found

    def close_gate(self, *limits: float | None) -> None:
        """An exclusive job waits for jobs with these limits, and the last of them overtakes it."""
        for place, limit in enumerate(limits):
            if place == len(limits) - 1:
                assert self.send("e", isolation=EXCLUSIVE) == []
            assert self.send(f"s{place}", limit)


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def test_a_job_that_ends_in_time_passes_the_closed_gate(queue: Queue) -> None:
    queue.close_gate(10, 30)
    bypassed = queue.gate["*:bypassed"]
    queue.now += 20
    assert queue.send("short", 10) == ["short"]
    assert queue.gate["*:bypassed"] == bypassed == "1", "it counts as no bypass"
    assert queue.send("shorter", 9.5) == ["shorter"]
    assert queue.why("e") == "SHARED_RUNNING"


def test_a_job_that_ends_later_waits_and_is_told_why(queue: Queue) -> None:
    queue.close_gate(10, 30)
    queue.now += 20
    assert queue.send("long", 10.5) == []
    assert queue.why("long") == "DRAINING_FOR_EXCLUSIVE"
    assert queue.send("short", 1) == [], "the first in line keeps its place"
    assert queue.why("short") == "DRAINING_FOR_EXCLUSIVE"
    assert queue.ends("s0") + queue.ends("s1") == ["e"]
    assert queue.ends("e") == ["long", "short"]


def test_the_end_of_a_drain_does_not_move_with_those_let_in(queue: Queue) -> None:
    queue.close_gate(10, 30)
    until = queue.gate[UNTIL]
    queue.now += 20
    assert queue.send("short", 10) == ["short"]
    queue.now += 5
    queue.executor("short").claim("h:n:1", "w")  # it ends 5 s later than it would have
    assert queue.send("late", 6) == []
    assert queue.gate[UNTIL] == until


def test_an_early_end_does_not_move_the_end_of_a_drain(queue: Queue) -> None:
    queue.close_gate(10, 30)
    assert queue.ends("s1") == []
    assert queue.send("short", 30) == ["short"]


def test_a_job_lets_none_in_that_has_declared_no_end(queue: Queue) -> None:
    queue.close_gate(10, None)
    assert queue.send("short", 0.5) == []
    assert queue.gate[UNTIL] == "0"
    assert queue.ends("s1") == [], "its end was not known when the gate closed"


@pytest.mark.parametrize("damage", ["no record", "another attempt"])
def test_a_holder_whose_record_is_not_its_own_has_declared_no_end(
    queue: Queue, damage: str
) -> None:
    queue.send("s0", 10)
    jobs, other = class_key("t4", "jobs"), queue.record("s0") | {"attempt": 2}
    if damage == "no record":
        queue.client.hdel(jobs, "s0")
    else:
        queue.client.hset(jobs, "s0", json.dumps(other))
    assert queue.send("e", isolation=EXCLUSIVE) == []
    assert queue.send("s1", 30) == ["s1"]
    assert queue.gate[UNTIL] == "0"


def test_a_job_without_a_limit_is_not_let_in(queue: Queue) -> None:
    queue.close_gate(10, 30)
    assert queue.send("unlimited") == []
    assert queue.why("unlimited") == "DRAINING_FOR_EXCLUSIVE"


@pytest.mark.parametrize(("planned", "starts"), [(0, False), (10, True), (11, False)])
def test_a_limit_that_the_task_declares_decides_who_passes_the_gate(
    queue: Queue, planned: float, starts: bool
) -> None:
    """The class's default, which the record has as well, does not. 0: it is not known."""
    queue.close_gate(10, 30)
    queue.now += 20
    assert queue.send("job", 5, planned_limit=planned) == (["job"] if starts else [])


def test_an_end_is_planned_once_the_limit_of_a_task_is_known(queue: Queue) -> None:
    queue.send("s0", 60, planned_limit=0)
    queue.executor("s0").claim("h:n:1", "w", 60)
    queue.send("e", isolation=EXCLUSIVE)
    queue.send("s1", 60, planned_limit=20)
    assert queue.gate[UNTIL] == "0", "the task of s0 may declare any"
    queue.line.cancel("t4", "e")
    assert queue.executor("s0").loaded(40)
    queue.send("e2", isolation=EXCLUSIVE)
    queue.send("s2", 60, planned_limit=30)
    assert float(queue.gate[UNTIL]) == queue.now + 40


def test_an_idle_class_starts_the_exclusive_job_first(queue: Queue) -> None:
    """A shared one of better priority would end in time, and still delay it."""
    queue.send("s0", 30), queue.send("e", isolation=EXCLUSIVE, priority=3), queue.send("s1", 30)
    full = replace(T4, shared_slots=2)
    short = record("short", 5, priority=0)
    assert queue.line.take_in(full, short, "{}").granted == []
    queue.client.hdel(class_key("t4", "gate"), "opened")
    assert queue.ends("s0") + queue.ends("s1") == [], "until it is known what runs"
    queue.line.open("t4")
    assert queue.admit() == ["e"]


def record(name: str, limit: float, **more: Any) -> Any:
    own = {"delivery": name, "id": name, "isolation": SHARED, "gpu_class": "t4"}
    return own | {"time_limit": limit} | more


def test_a_gate_that_opens_forgets_when_it_should(queue: Queue) -> None:
    queue.close_gate(10, 30)
    queue.line.cancel("t4", "e")
    assert queue.send("any") == ["any"]
    assert UNTIL not in queue.gate
    assert queue.send("e2", isolation=EXCLUSIVE) == []
    assert queue.send("s3") == ["s3"]
    assert queue.gate[UNTIL] == "0"


def test_a_limit_that_is_declared_late_counts_for_the_next_drain(queue: Queue) -> None:
    """A task may declare its own: it is known once the application is loaded."""
    queue.send("s0")
    queue.executor("s0").claim("h:n:1", "w", 60)
    assert queue.executor("s0").loaded(40)
    queue.now += 10
    queue.send("e", isolation=EXCLUSIVE)
    queue.send("s1", 5)
    assert float(queue.gate[UNTIL]) == queue.now + 30


def test_what_has_ended_and_keeps_its_slot_holds_nothing_up(queue: Queue) -> None:
    queue.send("s0")
    queue.executor("s0").claim("h:n:1", "w")
    queue.executor("s0").report("SUCCEEDED")
    assert queue.executor("s0").reported(1000)
    queue.send("e", isolation=EXCLUSIVE)
    queue.send("s1", 5)
    assert float(queue.gate[UNTIL]) == queue.now + 5


def test_a_closed_gate_of_an_older_version_gets_its_end(queue: Queue) -> None:
    queue.close_gate(10, 30)
    queue.client.hdel(class_key("t4", "gate"), UNTIL)
    assert queue.why("e") == "SHARED_RUNNING"
    queue.now += 20
    assert queue.send("long", 10.5) == []
    queue.line.cancel("t4", "long")
    assert queue.send("short", 10) == ["short"]


def test_too_many_jobs_are_not_asked_for_their_ends(queue: Queue) -> None:
    wide = replace(T4, shared_slots=100)
    for number in range(65):
        assert queue._start(queue.line.take_in(wide, record(f"s{number}", 30), "{}").granted)
    queue.send("e", isolation=EXCLUSIVE)
    assert queue._start(queue.line.take_in(wide, record("last", 30), "{}").granted)
    assert queue.gate[UNTIL] == "0"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "send", "exclusive", "start", "end", "wait"]),
        st.integers(0, 9),
    ),
    min_size=10,
    max_size=30,
)
LIMITS = (3, 3, 8, 20, 20, None)
PLANNED = (None, None, 20, None, None, None, 20, 0, None, 12)


def test_what_passes_the_gate_is_what_the_promise_says(schedule_redis: redis.Redis) -> None:
    let_in: set[tuple[int, str]] = set()

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(steps=STEPS, patience=st.integers(1, 2))
    def play(steps: list[tuple[str, int]], patience: int) -> None:
        world = World(schedule_redis, Rules(4, 1, patience, 1))
        for number, (what, which) in enumerate(steps):
            take(world, f"j{number:02}", what, which)
            jobs = world.model.jobs.values()
            let_in.update((id(world), j.id) for j in jobs if j.let_in_until is not None)
        check(world)
        drain(world)

    play()
    assert len(let_in) > 10, "few schedules have let a job in"


def take(world: World, name: str, what: str, which: int) -> None:
    """Take one step of a schedule."""
    if what in ("send", "exclusive"):
        kind = SHARED if what == "send" else EXCLUSIVE
        limit, planned = LIMITS[which % len(LIMITS)], PLANNED[which % len(PLANNED)]
        job = ModelJob(name, name, kind, tag=world.new_tag(), time_limit=limit)
        world.take_in(replace(job, planned_limit=planned))
    elif what == "start" and world.granted:
        process = world.spawn(world.granted.pop(which % len(world.granted)))
        world.launched(process)
        world.claim(process, process.told)
    elif what == "end" and world.processes:
        process = world.processes.pop(which % len(world.processes))
        world.release(process.delivery, process.attempt, process.instance, "ERROR", False)
    elif what == "wait":
        world.now += which
        world.tick()
