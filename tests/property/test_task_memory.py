"""What the jobs of a task have used of GPU memory, and what the record of a job says that asks for
far more, or for less.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuqueue.classes.choose import DRIVER_RESERVE
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.checks.memory import MOST, memory
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.task_memory import MEASURED, TaskMemory
from gpuqueue.store.answers import TakenIn
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from gpuqueue.store.reader import Reader
from gpuqueue.store.task_memory import used
from tests.property.moving import Moving
from tests.support.model_time import Timed

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1)
L4 = GpuClass("l4", shared_slots=2, exclusive_slots=1)
GIB = 2**30
KEY, TIMES = class_key("t4", "task_memory"), class_key("t4", "task_memory_at")
NAME = json.dumps(["vision", "shop.train"], separators=(",", ":"))


@dataclass
class Queue(Timed):
    """Classes whose jobs end as soon as they start."""

    client: redis.Redis
    number: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.client.flushdb()
        self.now = 1_000_000.0
        self.line, self.reader = Line(self.client), Reader(self.client)
        for each in (T4, L4):
            self.line.open(each.name)

    def submit(self, asks: int | None = None, gpu_class: GpuClass = T4, **more: Any) -> TakenIn:
        self.number += 1
        record: Any = {"delivery": f"j{self.number}", "id": f"j{self.number}", "memory": asks}
        record |= {"task": "shop.train", "tenant": "vision", "isolation": "exclusive", **more}
        record["gpu_class"] = gpu_class.name
        known: Any = {name: value for name, value in record.items() if value is not None}
        return self.line.take_in(gpu_class, known, "{}")

    def run(
        self,
        asks: int | None = None,
        gpu_class: GpuClass = T4,
        outcome: EndReason = EndReason.SUCCEEDED,
        sample: dict[str, int] | None = None,
        **more: Any,
    ) -> TakenIn:
        """Run a job to its end."""
        taken = self.submit(asks, gpu_class, **more)
        [granted] = taken.granted
        attempt = Attempt.of(granted)
        executor = ExecutorAttempt(self.client, attempt, granted["token"])
        executor.claim("h:1", "w")
        executor.report(outcome, sample or {"gpu_memory_own": 3 * GIB})
        executor.reported(1000)
        self.line.release(gpu_class, attempt, instance="h:1")
        self.now += 1
        return taken

    def used(self, *classes: str) -> list[tuple[str, str, tuple[int, ...]]]:
        found = used(self.client, classes or ("t4",), self.now)
        return [(each.tenant, each.task, each.peaks) for each in found]

    def told(self) -> tuple[int | None, int | None]:
        """What the record of the last job says."""
        record = self.reader.record("t4", f"j{self.number}") or {}
        return record.get("memory_used"), record.get("memory_runs")

    def checks(self) -> list[str]:
        reader: Any = SimpleNamespace(classes=lambda: {"t4": {}, "l4": {}})
        state: Any = SimpleNamespace(client=self.client, reader=reader, now=lambda: self.now)
        return [each.saw for each in memory(state)]


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


# -- what is kept ----------------------------------------------------------------------------------


def test_peaks_are_kept_by_tenant_and_task(queue: Queue) -> None:
    for size in (1, 3, 2):
        queue.run(sample={"gpu_memory_own": size * GIB})
    queue.run(tenant=None)
    queue.run(task="shop.test")
    assert queue.used() == [
        ("", "shop.train", (3 * GIB,)),
        ("vision", "shop.test", (3 * GIB,)),
        ("vision", "shop.train", (1 * GIB, 3 * GIB, 2 * GIB)),
    ]


@pytest.mark.parametrize(
    ("isolation", "sample", "peaks"),
    [
        ("exclusive", {"gpu_memory_peak": 4 * GIB}, [4 * GIB - DRIVER_RESERVE]),
        ("exclusive", {"gpu_memory_peak": 4 * GIB, "gpu_memory_own": GIB}, [4 * GIB - 2**29]),
        ("exclusive", {"gpu_memory_peak": GIB, "gpu_memory_own": GIB}, [GIB]),
        ("exclusive", {"gpu_memory_peak": DRIVER_RESERVE}, []),
        ("shared", {"gpu_memory_peak": 4 * GIB, "gpu_memory_own": GIB}, [GIB]),
        ("shared", {"gpu_memory_peak": 4 * GIB}, []),
        ("shared", {"gpu": 1}, []),
    ],
)
def test_memory_of_other_jobs_and_of_the_driver_does_not_count(
    queue: Queue, isolation: str, sample: dict[str, int], peaks: list[int]
) -> None:
    queue.run(isolation=isolation, sample=sample)
    assert [each for *_, kept in queue.used() for each in kept] == peaks


def test_an_attempt_that_counts_not_leaves_no_peak(queue: Queue) -> None:
    [granted] = queue.submit().granted
    attempt = Attempt.of(granted)
    executor = ExecutorAttempt(queue.client, attempt, granted["token"])
    executor.claim("h:1", "w")
    executor.sampled({"gpu_memory_own": GIB})
    queue.line.release(T4, attempt, End(EndReason.INFRA, "gone"), "h:1")
    assert queue.used() == []


def test_the_last_jobs_of_a_task_are_kept(queue: Queue) -> None:
    runs = MEASURED["runs"]
    queue.run()
    kept = {"peaks": [9] * (runs - 1) + [8], "at": queue.now, "more": 1}
    queue.client.hset(KEY, NAME, json.dumps(kept))
    queue.run(6 * GIB)
    [(_, _, peaks)] = queue.used()
    assert peaks == (*[9] * (runs - 2), 8, 3 * GIB)
    found = json.loads(queue.client.hget(KEY, NAME))  # type: ignore[arg-type]
    assert (found["asks"], found["more"]) == (6 * GIB, 1)


def test_the_task_whose_last_job_is_the_longest_ago_makes_room(queue: Queue) -> None:
    many_tasks = {json.dumps(["", f"t{n}"]): queue.now - n for n in range(MEASURED["tasks"])}
    queue.client.zadd(TIMES, many_tasks)
    entry = json.dumps({"peaks": [1], "at": queue.now})
    queue.client.hset(KEY, mapping=dict.fromkeys(many_tasks, entry))
    queue.run()
    oldest = json.dumps(["", f"t{MEASURED['tasks'] - 1}"])
    assert (queue.client.hlen(KEY), queue.client.zcard(TIMES)) == (MEASURED["tasks"],) * 2
    assert not queue.client.hexists(KEY, oldest)
    assert queue.client.hexists(KEY, NAME)


def test_a_task_without_jobs_for_months_is_forgotten(queue: Queue) -> None:
    for _ in range(MEASURED["enough"]):
        queue.run(task="shop.old")
    queue.now += MEASURED["seconds"] + 1
    assert queue.used() == []
    assert queue.run(GIB, task="shop.old").memory is None
    assert queue.used() == [("vision", "shop.old", (3 * GIB,))]
    queue.now += MEASURED["seconds"] + 1
    queue.run(task="shop.new")
    assert queue.client.hkeys(KEY) == ['["vision","shop.new"]']
    assert queue.client.zcard(TIMES) == 1


@pytest.mark.parametrize("key", [KEY, TIMES])
def test_a_damaged_key_keeps_no_job_from_its_way(queue: Queue, key: str) -> None:
    queue.client.set(key, "x")
    for _ in range(3):
        assert queue.run(GIB).outcome == "accepted"
    assert not queue.reader.holders("t4")


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "1", "[]", '{"peaks": 1}', '{"peaks": 1, "at": 1e6}', '{"peaks": [1]}'),
        *('{"peaks": [1], "at": "x"}', '{"peaks": [1e999], "at": 1e6}'),
        '{"peaks": ["x"], "at": 1e6}',
    ],
)
def test_a_damaged_entry_is_replaced(queue: Queue, text: str) -> None:
    queue.client.hset(KEY, NAME, text)
    assert [peaks for *_, peaks in queue.used()] == []
    queue.run(GIB)
    queue.run(GIB)
    found = json.loads(queue.client.hget(KEY, NAME))  # type: ignore[arg-type]
    assert found["peaks"][-2:] == [3 * GIB, 3 * GIB]


def test_names_too_long_to_keep_are_left_out(queue: Queue) -> None:
    long = "x" * 300
    for _ in range(2):
        assert queue.run(GIB, task=long).memory is None
    assert queue.told() == (None, None)


# -- hints -----------------------------------------------------------------------------------------


def test_a_job_that_asks_for_far_more_says_so_and_is_told_once(queue: Queue) -> None:
    enough = MEASURED["enough"]
    for _ in range(enough - 1):
        assert queue.run(20 * GIB).memory is None
        assert queue.told() == (None, None), "too few jobs"
    queue.run(20 * GIB)
    assert queue.run(20 * GIB).memory == (3 * GIB, enough)
    assert queue.told() == (3 * GIB, enough)
    assert queue.run(21 * GIB).memory is None, "told once"
    assert queue.told() == (3 * GIB, enough + 1)
    assert queue.run(6 * GIB).memory is None
    assert queue.told() == (None, None), "twice as much is not far more"
    # Less is another thing.
    assert queue.run(GIB).memory == (3 * GIB, enough + 3)
    assert queue.run(GIB).memory is None


def test_a_job_that_asks_for_less_than_one_job_has_used_says_so(queue: Queue) -> None:
    queue.run(GIB)
    assert queue.run(GIB).memory == (3 * GIB, 1)
    assert queue.run(GIB, tenant="speech").memory is None, "another tenant"
    assert queue.run(GIB, task="shop.test").memory is None, "another task"
    assert queue.run(None).memory is None
    assert queue.told() == (None, None)


def test_the_record_of_an_ended_job_says_so_too(queue: Queue) -> None:
    queue.run(GIB)
    queue.run(GIB)
    record = queue.reader.record("t4", "j2") or {}
    assert (record["state"], record["memory"]) == ("ended", GIB)
    assert (record["memory_used"], record["memory_runs"]) == (3 * GIB, 1)


def test_the_log_of_the_dispatcher_has_it_once(
    schedule_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    moving = Moving(schedule_redis)
    entry = json.dumps({"peaks": [3 * GIB] * 9, "at": moving.now})
    schedule_redis.hset(KEY, '["vision","shop.train"]', entry)
    for retries in range(3):
        moving.send(retries=retries, tenant="vision", memory=10 * GIB)
    found = [
        each.getMessage() for each in caplog.records if getattr(each, "action", "") == "memory"
    ]
    assert found == [
        "task shop.train of tenant 'vision' asks for 10.0GiB of GPU memory and used at most 3.0GiB"
        " in 9 runs (told once; nothing changes)"
    ]
    record = moving.record("t4", "a~2")
    assert (record["memory_used"], record["memory_runs"]) == (3 * GIB, 9)


sizes = st.integers(1, 100)


@given(asks=st.none() | sizes, peaks=st.lists(sizes, min_size=1, max_size=12))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_scripts_and_commands_decide_alike(
    schedule_redis: redis.Redis, asks: int | None, peaks: list[int]
) -> None:
    queue = Queue(schedule_redis)
    kept = {"peaks": peaks, "at": queue.now, "asks": asks}
    queue.client.hset(KEY, NAME, json.dumps(kept))
    entry = TaskMemory.parse(json.loads(NAME), kept)
    assert entry is not None
    queue.submit(asks)
    expected = (entry.most, len(peaks)) if entry.verdict() else (None, None)
    assert queue.told() == expected


# -- the doctor ------------------------------------------------------------------------------------


def test_the_doctor_names_tasks_that_ask_for_far_more_or_less(queue: Queue) -> None:
    assert queue.checks() == []
    for _ in range(MEASURED["enough"]):
        queue.run(20 * GIB)
    queue.run(GIB, L4, tenant=None)
    queue.run(4 * GIB, task="shop.good")
    assert queue.checks() == [
        "task 'shop.train' asks for 1.0GiB of GPU memory and used at most 3.0GiB in 1 run",
        (
            "task 'shop.train' of tenant 'vision' asks for 20.0GiB of GPU memory and used at most"
            " 3.0GiB in 5 runs"
        ),
    ]


def test_the_doctor_merges_what_classes_know_of_a_task(queue: Queue) -> None:
    for gpu_class in (T4, L4, L4, T4, L4):
        queue.run(7 * GIB, gpu_class)
    assert len(queue.checks()) == 1
    queue.run(6 * GIB, L4)
    assert queue.checks() == []
    assert queue.used("t4", "l4") == [("vision", "shop.train", (3 * GIB,) * 6)]


def test_the_doctor_names_a_few_tasks_and_counts_the_others(queue: Queue) -> None:
    for number in range(MOST + 2):
        queue.run(GIB, task=f"t{number}", sample={"gpu_memory_own": (number + 2) * GIB})
    found = queue.checks()
    assert found[0].startswith(f"task 't{MOST + 1}' "), "the worst first"
    assert found[-1] == "2 more tasks ask for far more than they have used, or for less"
    assert len(found) == MOST + 1
