"""Many random schedules of a state machine on one Redis."""

from __future__ import annotations

from typing import Any

import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def run(
    machine: type[RuleBasedStateMachine],
    client: redis.Redis,
    examples: int,
    steps: int,
    **more: Any,
) -> None:
    """Run schedules of a machine, which finds its Redis as ``redis_client``."""
    run_state_machine_as_test(
        type("OnThisRedis", (machine,), {"redis_client": client}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            **more,
        ),
    )
