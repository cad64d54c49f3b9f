"""Slots and patience: those of the leader hold for all dispatchers of a class."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.names import EXCLUSIVE
from gpuqueue.store.keys import class_key
from gpuqueue.store.line import Line
from tests.property.tenants import TenantQueue

pytestmark = pytest.mark.integration
MINE = GpuClass("t4", shared_slots=4, exclusive_slots=1)
OTHERS = replace(MINE, shared_slots=2)
GROUP, HOLDS = ":t4", 30.0


class Dispatchers(TenantQueue):
    """Two of them with other settings: the one that decides, and the leader."""

    def lead(self, gpu_class: GpuClass, group: str = GROUP, holds: float = HOLDS) -> None:
        """Set the bounds as the leader of a group does."""
        Line(self.client, by="leader").set_bounds([gpu_class], group, holds)

    def send_shared(self, number: int) -> None:
        """Send shared jobs without a tenant."""
        for _ in range(number):
            self.send("")

    def epoch(self) -> int:
        """The number of their last change."""
        text = self.client.hget(class_key("t4", "gate"), "bounds")
        assert isinstance(text, str)
        return int(text.split()[0])


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Dispatchers:
    return Dispatchers(schedule_redis, MINE)


def test_slots_of_the_leader_hold_for_all_dispatchers(queue: Dispatchers) -> None:
    queue.lead(OTHERS)
    queue.send_shared(3)
    assert len(queue.holding) == 2
    queue.lead(replace(OTHERS, shared_slots=3))
    queue.turn()
    assert len(queue.holding) == 3
    assert queue.epoch() == 2


def test_patience_of_the_leader_holds_for_all_dispatchers(queue: Dispatchers) -> None:
    queue.lead(replace(MINE, exclusive_patience=1))
    queue.send_shared(1)
    queue.send("", EXCLUSIVE, name="whole")
    queue.send_shared(2)
    assert len(queue.holding) == 2, "K = 1"


def test_bounds_that_do_not_change_keep_their_epoch(queue: Dispatchers) -> None:
    queue.lead(OTHERS)
    queue.after(HOLDS / 2)
    queue.lead(OTHERS)
    assert queue.epoch() == 1
    queue.after(HOLDS - 1)
    queue.send_shared(3)
    assert len(queue.holding) == 2, "they hold for longer"


def test_without_a_leader_each_dispatcher_has_its_own_bounds(queue: Dispatchers) -> None:
    queue.lead(OTHERS)
    queue.after(HOLDS + 1)
    queue.send_shared(5)
    assert len(queue.holding) == 4


def test_one_group_of_dispatchers_sets_the_bounds_of_a_class(queue: Dispatchers) -> None:
    queue.lead(OTHERS)
    queue.lead(MINE, group=":a100,t4")
    queue.send_shared(3)
    assert len(queue.holding) == 2
    queue.after(HOLDS + 1)
    queue.lead(MINE, group=":a100,t4")
    queue.turn()
    assert len(queue.holding) == 3, "the first group is gone"


def test_slots_of_a_gpu_are_none_of_a_class(queue: Dispatchers) -> None:
    queue.lead(OTHERS.on(2))
    queue.send_shared(3)
    assert len(queue.holding) == 3


def test_bounds_that_cannot_be_read_do_not_hold(queue: Dispatchers) -> None:
    queue.client.hset(class_key("t4", "gate"), "bounds", "1 2")
    queue.send_shared(3)
    assert len(queue.holding) == 3
    queue.lead(OTHERS)
    assert queue.epoch() == 1


def test_a_delivery_that_is_only_stored_needs_no_bounds(queue: Dispatchers) -> None:
    queue.lead(OTHERS)
    record: Any = {"delivery": "a", "id": "a", "isolation": "shared", "gpu_class": "t4"}
    assert queue.line.accept("t4", record, "{}") == "accepted"
