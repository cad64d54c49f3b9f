"""What one cancel reaches: the newest delivery of its task, the older ones, and no other task."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.store.scripts import Scripts
from tests.property.open_class import OpenClass

pytestmark = pytest.mark.integration
FULL = GpuClass("t4")


class Queue(OpenClass):
    """A class without slots, so that each delivery waits."""

    def submit(self, *deliveries: str, of: str) -> None:
        for delivery in deliveries:
            retries = int(delivery.removeprefix(of).removeprefix("~") or 0)
            record: Any = {"delivery": delivery, "id": of, "retries": retries, "gpu_class": "t4"}
            taken = self.line.take_in(FULL, record | {"isolation": "shared"}, "{}")
            assert taken.outcome == "accepted"

    def cancel(self, job_id: str, most: int, after: str | None = None) -> tuple[str, str, str]:
        """Make one call of a cancel. Returns its whole answer."""
        context = {"terminate": True, "signal": "TERM", "forget_after": 60}
        answer = Scripts(self.client).call(
            "cancel", "t4", id=job_id, most=most, after=after, **context
        )
        return tuple(answer)

    def state(self, delivery: str) -> str:
        record = self.reader.record("t4", delivery)
        assert record is not None
        return record["state"]


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


DELIVERIES = ("a", "a~1", "a~2", "a~3")


@pytest.mark.parametrize(("most", "calls"), [(1, 5), (2, 3), (64, 1)])
def test_a_cancel_comes_to_an_end_with_any_budget(queue: Queue, most: int, calls: int) -> None:
    queue.submit(*DELIVERIES, of="a")
    outcome, after, newest = queue.cancel("a", most)
    assert (outcome, newest) == ("cancelled", "a~3")
    made = 1
    while after:
        made += 1
        assert made <= calls
        _, after, _ = queue.cancel("a", most, after)
    assert made == calls
    assert {queue.state(each) for each in DELIVERIES} == {"finishing"}


def test_a_cancel_does_not_touch_the_delivery_of_another_task(queue: Queue) -> None:
    queue.submit("a~1", of="a")
    queue.submit("a~1~1", of="a~1")  # a task whose id looks like a retry of another
    assert queue.cancel("a~1", 64) == ("cancelled", "", "a~1~1")
    assert queue.state("a~1~1") == "finishing"
    assert queue.state("a~1") == "waiting"
