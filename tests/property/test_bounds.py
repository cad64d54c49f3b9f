"""The work of one script is bounded by numbers of the store, with any data and any line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.dispatcher.unserved import Unserved
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.job import Job
from gpuqueue.store import revocations
from gpuqueue.store.answers import BATCH, Granted
from gpuqueue.store.cancels import CANCEL_BATCH, REVOKED_FOR
from gpuqueue.store.client import connect
from gpuqueue.store.keys import CLASSES, REVOKED_STAMPS, class_key
from gpuqueue.store.line import Line
from gpuqueue.store.measures import Measures
from gpuqueue.store.reader import Reader
from gpuqueue.store.upkeep import TICK_BATCH
from tests.support.model_time import Timed
from tests.support.script_times import Times, script_times

pytestmark = pytest.mark.integration
CLASS = "t4"
#: Slots for whole batches of shared jobs.
WIDE = GpuClass(CLASS, shared_slots=2 * BATCH, exclusive_slots=1)
#: No slots: a job stays in line.
FULL = GpuClass(CLASS, shared_slots=0, exclusive_slots=0)
#: Commands that one job takes in a script at most.
EACH = 20
#: The CPU time of one script, in seconds, is less.
LONGEST = 0.010
#: Nearly the largest container, in many parts.
WORDS = ["a"] * 13_000


class Queue(Timed):
    """The state of one class, its clock, and what its commands cost."""

    def __init__(self, client: redis.Redis) -> None:
        client.flushall()
        self.client, self.now = client, 1_000_000.0
        self.line = Line(client, by="d1", devices={CLASS: 4})
        self.line.open(CLASS)
        self.reader = Reader(client)

    def add(self, job: str, **fields: Any) -> str:
        """Put a job in line."""
        isolation = fields.pop("isolation", "shared")
        made = Job(job, "shop.train", CLASS, isolation, **fields)
        taken = self.line.take_in(FULL, made.record(), "{}")
        assert (taken.outcome, taken.granted) == ("accepted", [])
        return made.delivery

    def fill(self, number: int, **fields: Any) -> None:
        """Put many jobs in line at once, as the scripts write them."""
        first = int(self.client.hincrby(class_key(CLASS, "gate"), "seq", number)) - number + 1
        pipe = self.client.pipeline(transaction=False)
        for arrival in range(first, first + number):
            made = Job(f"job-{arrival}", "shop.train", CLASS, "shared", **fields)
            record = json.dumps({**made.record(), "state": "waiting"})
            pipe.hset(class_key(CLASS, "jobs"), made.delivery, record)
            pipe.hset(class_key(CLASS, "messages"), made.delivery, "{}")
            pipe.zadd(class_key(CLASS, "waiting_shared"), {made.delivery: arrival})
            if made.expires:
                pipe.zadd(class_key(CLASS, "expiring"), {made.delivery: made.expires})
            if arrival % 1000 == 0:
                pipe.execute()
        pipe.execute()

    def size(self, name: str) -> int:
        key = class_key(CLASS, name)
        return int(self.client.hlen(key) if name in ("jobs", "latest") else self.client.zcard(key))

    def commands(self, step: Callable[[], object]) -> int:
        """Return the commands of a step, within its scripts and outside of them."""
        self.client.config_resetstat()
        step()
        stats = self.client.info("commandstats")
        return sum(int(each["calls"]) for each in stats.values())


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def test_a_decision_looks_at_a_bounded_number_of_expired_jobs(queue: Queue) -> None:
    queue.fill(3 * BATCH, expires=queue.now + 1)
    last = queue.add("last")
    queue.now += 2
    decisions: list[Granted] = []
    for _ in range(3):
        assert queue.commands(lambda: decisions.append(queue.line.admit(WIDE))) <= BATCH * EACH
    assert [(list(each), each.more) for each in decisions] == [([], True)] * 3
    assert queue.size("finishing") == 3 * BATCH
    granted = queue.line.admit(WIDE)
    assert [record["delivery"] for record in granted] == [last]
    assert not granted.more


def test_a_decision_that_starts_a_whole_batch_says_that_there_is_more(queue: Queue) -> None:
    queue.fill(BATCH + 1)
    granted = queue.line.admit(WIDE)
    assert (len(granted), granted.more) == (BATCH, True)
    granted = queue.line.admit(WIDE)
    assert (len(granted), granted.more) == (1, False)
    freed = queue.line.release(WIDE, Attempt.of(granted[0]))
    assert (freed.freed, freed.granted, freed.granted.more) == (True, [], False)


def test_large_records_use_up_the_budget_of_a_decision_sooner(queue: Queue) -> None:
    queue.fill(8, container={"command": WORDS})
    granted = queue.line.admit(WIDE)
    assert granted.more
    assert 1 <= len(granted) < 8
    while queue.line.admit(WIDE).more:
        pass
    assert queue.size("waiting_shared") == 0


def test_a_tick_moves_a_bounded_number_of_each_kind(queue: Queue) -> None:
    number = TICK_BATCH + 10
    queue.fill(number, expires=queue.now + 1)
    for each in range(number):
        queue.add(f"later-{each}", eta=queue.now + 1)
    queue.now += 2
    assert queue.commands(lambda: queue.line.tick(CLASS)) <= 2 * TICK_BATCH * EACH
    assert (queue.size("expiring"), queue.size("delayed")) == (10, 10)
    moved, due = queue.line.tick(CLASS)
    assert (moved, due) == (20, None)


def test_a_tick_moves_few_large_records_at_once(queue: Queue) -> None:
    queue.fill(20, expires=queue.now + 1, container={"command": WORDS})
    queue.now += 2
    ticks = 0
    while queue.size("expiring"):
        before = queue.size("expiring")
        queue.line.tick(CLASS)
        assert before - queue.size("expiring") <= 5
        ticks += 1
    assert ticks >= 4


@pytest.mark.parametrize("retries", [10**8, 10**9])
def test_a_cancel_does_not_count_to_the_retries_of_a_sender(queue: Queue, retries: int) -> None:
    first, retry = queue.add("one"), queue.add("one", retries=retries)
    assert queue.commands(lambda: queue.line.cancel(CLASS, "one")) < 60
    for delivery in (first, retry):
        record = queue.reader.record(CLASS, delivery)
        assert record is not None
        assert (record["state"], record["reason"]) == ("finishing", "CANCELLED")


def test_a_cancel_reaches_each_delivery_of_its_task_and_no_other(queue: Queue) -> None:
    number = 2 * CANCEL_BATCH + 5
    mine = [queue.add("one", retries=retries) for retries in range(number)]
    mine += [queue.add("one", retries=1, nesting=2)]
    others = [queue.add("one~1"), queue.add("on", retries=1), queue.add("one1", retries=1)]
    assert queue.line.cancel(CLASS, "one") == "cancelled"
    states = {
        each: record["state"]
        for each in mine + others
        if (record := queue.reader.record(CLASS, each))
    }
    assert states == dict.fromkeys(mine, "finishing") | dict.fromkeys(others, "waiting")


def test_a_cancel_looks_at_few_large_deliveries_at_once(queue: Queue) -> None:
    mine = [queue.add("one", retries=each, container={"command": WORDS}) for each in range(20)]
    contexts: list[Any] = []
    each_call = queue.line._scripts.each

    def counted(verb: str, calls: Any) -> Any:
        contexts.extend(context for _, context in calls)
        return each_call(verb, calls)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue.line._scripts, "each", counted)
        assert queue.line.cancel(CLASS, "one") == "cancelled"
    assert 5 <= len(contexts) <= len(mine) + 1
    assert {(queue.reader.record(CLASS, each) or {}).get("state") for each in mine} == {"finishing"}


def test_the_index_of_deliveries_holds_none_that_has_ended(queue: Queue) -> None:
    delivery = queue.add("one", retries=2)
    assert queue.size("repeats") == 1
    queue.line.cancel(CLASS, "one")
    queue.line.finish_claim(CLASS, delivery, "me", 15)
    assert queue.line.finished(CLASS, delivery, "me", "CANCELLED")
    assert queue.size("repeats") == 0
    # An older executor ended the next one, and left its entry.
    left = queue.add("two", retries=1)
    queue.line.cancel(CLASS, "two")
    queue.line.finish_claim(CLASS, left, "me", 15)
    queue.line.finished(CLASS, left, "me", "CANCELLED")
    queue.client.zadd(class_key(CLASS, "repeats"), {f"two\0{left}": 0})
    queue.now += 2 * queue.line.keep
    queue.line.tick(CLASS)
    assert (queue.size("repeats"), queue.size("jobs"), queue.size("latest")) == (0, 0, 0)


def test_a_class_without_dispatcher_and_jobs_forgets_old_revokes(queue: Queue) -> None:
    queue.client.hset(CLASSES, CLASS, "{}")
    for number in range(2 * TICK_BATCH):
        queue.line.cancel(CLASS, f"unknown-{number}")
    queue.now += REVOKED_FOR + 1
    nothing: Any = None
    unserved = Unserved(queue.client, queue.line, queue.reader, {}, nothing, nothing, 10.0)
    unserved.look_after(queue.now)
    assert unserved.jobs == {}
    assert queue.client.exists(class_key(CLASS, "revoked"), class_key(CLASS, "revoked_until")) == 0


def test_marks_of_revoked_stamps_are_forgotten(queue: Queue) -> None:
    old = {"order": [str(number) for number in range(2 * revocations.BATCH)]}
    revocations.revoke_stamps(queue.client, old, 50.0)
    marks: Any = queue.client.hgetall(REVOKED_STAMPS)
    assert len(marks) == 2 * revocations.BATCH
    earlier = {mark: float(revoked) - 100 for mark, revoked in marks.items()}
    queue.client.hset(REVOKED_STAMPS, mapping=earlier)
    revocations.revoke_stamps(queue.client, {"order": ["new"]}, 50.0)
    assert list(queue.client.hgetall(REVOKED_STAMPS)) == ["order=new"]


# -- measured --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large_redis() -> Iterator[redis.Redis]:
    with EmbeddedRedis() as server:
        client = connect(server.url)
        yield client
        client.close()


def every_script(queue: Queue, reading: Times) -> None:
    """Call what a dispatcher calls, on a long line with data of hostile senders."""
    line = queue.line
    queue.now += 100
    number = round(queue.now)
    # Sent now: a long name, retries without end, a large container, stamps.
    name = f"{number}-" + "n" * 500
    queue.add(name)
    queue.add(name, retries=10**8)
    queue.add(f"{number}-large", container={"command": WORDS}, expires=queue.now + 1)
    for each in range(100):
        queue.add(f"{number}-many", retries=each)
    for each in range(20):
        queue.add(f"{number}-large", retries=each + 1, container={"command": WORDS})
    line.cancel(CLASS, name)
    line.cancel(CLASS, f"{number}-many")
    line.cancel(CLASS, f"{number}-large")
    # Past thousands of expired jobs.
    for _ in range(5):
        line.admit(WIDE)
    for _ in range(20):
        line.tick(CLASS)
    Measures(queue.client).of(CLASS)
    reading(queue.reader.todo, CLASS, queue.now)
    reading(queue.reader.view, CLASS, {})
    [last] = queue.client.zrange(class_key(CLASS, "waiting_shared"), -1, -1)
    reading(queue.reader.why, WIDE, str(last))
    for some in queue.reader.live(CLASS):
        reading(queue.reader.messages, CLASS, some[:50])


def handed_on(queue: Queue) -> None:
    """Start what has room, end it, and start what is next, large records among them."""
    record: Any
    for record in queue.line.admit(WIDE):
        queue.line.launched(Attempt.of(record), "host:1", 60)
        for after in queue.line.release(WIDE, Attempt.of(record), instance="host:1").granted:
            queue.line.release(WIDE, Attempt.of(after), instance="host:1")


def slow_scripts(client: redis.Redis, step: Callable[[Times], None], verbs: set[str]) -> set[str]:
    """Return the verbs that take too long each time, and see that a step has called some."""
    slow: set[str] | None = None
    # CPU time grows, too, where other machines share the core: what is slow is slow each time.
    for _ in range(4):
        reading = Times(client)
        with script_times(client) as times:
            step(reading)
        assert verbs <= times.keys()
        now = {verb for verb, longest in times.items() if longest >= LONGEST}
        now |= {"a command of the reader"} if reading.longest >= LONGEST else set()
        slow = now if slow is None else slow & now
        if not slow:
            break
    return slow or set()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_script_takes_ten_milliseconds_at_100_000_waiting_jobs(large_redis: redis.Redis) -> None:
    queue = Queue(large_redis)
    queue.fill(20_000, expires=queue.now + 1)
    queue.fill(20, container={"command": WORDS})
    queue.fill(60_000, expires=queue.now + 1_000_000)
    queue.fill(20_000)
    verbs = {"accept", "admit", "cancel", "tick"}
    assert not slow_scripts(large_redis, lambda reading: every_script(queue, reading), verbs)
    # Past the expired jobs.
    while queue.size("holders_shared") == 0:
        queue.line.admit(WIDE)
    verbs = {"admit", "launched", "release"}
    assert not slow_scripts(large_redis, lambda _: handed_on(queue), verbs)
    assert queue.size("waiting_shared") > 79_000
