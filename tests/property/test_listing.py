"""What operators and monitors are told of a class: bounded lists, and true counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.store.activity import activities
from gpuqueue.store.attempts import ExecutorAttempt
from gpuqueue.store.client import connect
from gpuqueue.store.keys import class_key
from gpuqueue.store.listing import LONGEST, MOST, Listing
from tests.property.open_class import NOW, OpenClass

pytestmark = pytest.mark.integration
T4 = GpuClass("t4", shared_slots=2, exclusive_slots=1)


class Queue(OpenClass):
    """The class, with jobs."""

    def add(self, name: str, message: str = "{}", **fields: Any) -> None:
        record: Any = {"delivery": name, "id": name, "gpu_class": "t4", "isolation": "shared"}
        record |= {"priority": 0, "task": f"task of {name}", **fields}
        self.line.take_in(T4, record, message)

    def end(self, name: str) -> None:
        attempt = Attempt("t4", name, 1)
        kept = self.reader.record("t4", name)
        assert kept is not None
        executor = ExecutorAttempt(self.client, attempt, kept["token"])
        executor.claim("h:n:1", "w")
        executor.report("SUCCEEDED")
        executor.reported(1000)
        self.line.release(T4, attempt, instance="h:n:1")


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


@pytest.fixture
def listing(schedule_redis: redis.Redis) -> Listing:
    return Listing(schedule_redis)


def names(listed: Any) -> list[str]:
    return [each.record["delivery"] for each in listed]


def test_jobs_are_listed_by_where_they_stand(queue: Queue, listing: Listing) -> None:
    for name in "abcd":
        queue.add(name)
    queue.add("e", eta=NOW + 60)
    assert names(listing.running("t4")) == ["a", "b"]
    assert [each.at for each in listing.running("t4")] == [NOW, NOW]
    assert listing.slots("t4") == ["a#1", "b#1"]
    assert names(listing.waiting("t4")) == ["c", "d"]
    [later] = listing.delayed("t4")
    assert (later.record["delivery"], later.at) == ("e", NOW + 60)
    assert names(listing.of("t4", ["d", "unknown", "a"])) == ["d", "a"]
    assert listing.of("t4", []) == []
    assert listing.tasks("t4") == {f"task of {name}" for name in "abcd"}
    assert Listing(queue.client).waiting("none") == []


def test_a_job_is_found_by_its_newest_delivery(queue: Queue, listing: Listing) -> None:
    queue.add("a")
    queue.add("a~1", id="a", retries=1)
    assert names(listing.of("t4", ["a"])) == ["a~1"]


def test_only_small_messages_are_read(queue: Queue, listing: Listing) -> None:
    small = json.dumps({"headers": {"x": "y"}})
    queue.add("a", small)
    queue.add("b", json.dumps({"body": "x" * LONGEST}))
    queue.add("c", "[" + " " * 10)
    listed = [*listing.running("t4"), *listing.waiting("t4")]
    assert [each.message for each in listed] == [json.loads(small), None, None]


def test_a_user_without_the_right_to_ask_for_a_length_reads_no_message(
    queue: Queue, schedule_redis: redis.Redis
) -> None:
    queue.add("a", json.dumps({"headers": {}}))
    schedule_redis.acl_setuser(
        "poor", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-hstrlen"]
    )
    options = schedule_redis.connection_pool.connection_kwargs
    poor = connect(f"redis://poor:any@{options['host']}:{options['port']}/0")
    try:
        [listed] = Listing(poor).running("t4")
        assert (listed.record["delivery"], listed.message) == ("a", None)
    finally:
        poor.close()
        schedule_redis.acl_deluser("poor")


def test_lists_are_bounded_however_long_the_line(queue: Queue, listing: Listing) -> None:
    for number in range(2 * MOST):
        queue.add(f"w{number:03}")
        queue.add(f"l{number:03}", eta=NOW + 60 + number)
    assert len(listing.waiting("t4")) == len(listing.delayed("t4")) == MOST
    assert len(listing.of("t4", [f"w{number:03}" for number in range(2 * MOST)])) == MOST
    queue.client.zadd(class_key("t4", "revoked_until"), {str(n): n for n in range(2 * MOST)})
    revoked = listing.revoked("t4")
    assert (len(revoked), revoked[-1]) == (MOST, str(2 * MOST - 1)), "the newest ones"


def test_a_damaged_job_is_left_out(queue: Queue, listing: Listing) -> None:
    queue.add("a")
    queue.client.hset(class_key("t4", "jobs"), "a", "no JSON")
    queue.client.zadd(class_key("t4", "holders_shared"), {"no holder": 1})
    assert listing.running("t4") == []


# -- counts ----------------------------------------------------------------------------------------


def test_the_counts_of_a_class_are_its_attempts(queue: Queue) -> None:
    for name in "abc":
        queue.add(name)
    found = activities(queue.client, ["t4", "none"])
    assert (found["t4"].active, found["t4"].processed) == (2, 2)
    assert (found["none"].active, found["none"].processed) == (0, 0)
    queue.end("a")  # its slot goes to the next one
    queue.end("b")
    found = activities(queue.client, ["t4"])
    assert (found["t4"].active, found["t4"].processed) == (1, 3)
    assert (found["t4"].holding, found["t4"].begun) == (
        {"shared": 1, "exclusive": 0},
        {"shared": 3, "exclusive": 0},
    )


def test_keys_of_another_type_count_nothing(queue: Queue) -> None:
    queue.add("a")
    for key in ("counts", "holders_exclusive"):
        queue.client.set(class_key("t4", key), "x")
    found = activities(queue.client, ["t4"])["t4"]
    assert (found.active, found.processed) == (1, 1)
