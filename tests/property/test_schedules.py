"""Every invariant of DESIGN.md, for every schedule that hypothesis can think of."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.property.machine import Schedule

pytestmark = pytest.mark.integration


def run(client: redis.Redis, examples: int, steps: int, **more: Any) -> None:
    class OnThisRedis(Schedule):
        redis_client = client

    run_state_machine_as_test(
        OnThisRedis,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            **more,
        ),
    )


@pytest.mark.timeout(300)  # a minute, and more on a busy machine
def test_the_invariants_and_both_bounds_hold_for_random_schedules(
    schedule_redis: redis.Redis,
) -> None:
    run(schedule_redis, examples=150, steps=40)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(1, 6))
def test_they_hold_for_many_more_and_longer_schedules(
    schedule_redis: redis.Redis, part: int
) -> None:
    """1,000 schedules in five parts, which run side by side."""
    run(schedule_redis, examples=200, steps=70)
