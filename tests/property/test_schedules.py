"""Every invariant of DESIGN.md, for every schedule that hypothesis can think of."""

from __future__ import annotations

import pytest
import redis

from tests.property.machine import Schedule
from tests.property.many_schedules import run

pytestmark = pytest.mark.integration


@pytest.mark.timeout(300)  # half a minute, and more on a busy machine
def test_the_invariants_and_both_bounds_hold_for_random_schedules(
    schedule_redis: redis.Redis,
) -> None:
    run(Schedule, schedule_redis, examples=40, steps=40)  # the slow ones are a thousand


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(1, 6))
def test_they_hold_for_many_more_and_longer_schedules(
    schedule_redis: redis.Redis, part: int
) -> None:
    """1,000 schedules in five parts, which run side by side."""
    run(Schedule, schedule_redis, examples=200, steps=70)
