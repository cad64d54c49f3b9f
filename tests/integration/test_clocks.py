"""A node whose clock is 90 s off neither kills nor spares a job: times in the state are those of
Redis.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError, TimeLimitExceeded

from tests.support import shifted_clock
from tests.support.nodes import APPS
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]
SHIFTS = ["90:worker", "-90:worker", "90:gpuqueue.executor", "-90:gpuqueue.executor"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]) -> Iterator[Stack]:
    path = os.pathsep.join([*shifted_clock.__path__, str(APPS)])
    env = {"PYTHONPATH": path, "T4_SHARED_SLOTS": "2"}
    with listed(running_stacks, Stack(tmp_path_factory.mktemp("clocks"), env)) as made:
        yield made


@pytest.fixture(params=SHIFTS)
def shifted(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack with a dispatcher, and the clock of it or of its executors is off."""
    shift: str = request.param
    node = stack.dispatcher(f"clock{SHIFTS.index(shift)}", env={"SHIFTED_CLOCK": shift})
    yield stack
    node.stop()


def test_limits_and_expiry_hold_by_the_clock_of_redis(shifted: Stack, key: str) -> None:
    shop: Any = shifted.shop
    held = shop.hold.apply_async([key], queue="gpu.t4.shared", time_limit=30)
    other = shop.hold.apply_async([key], queue="gpu.t4.shared")
    assert shifted.told(key) and shifted.told(key)
    waiting = shop.hold.apply_async([key], queue="gpu.t4.shared", expires=60)
    expired = shop.hold.apply_async([key], queue="gpu.t4.shared", expires=1)
    with pytest.raises(TaskRevokedError):
        expired.get(timeout=PATIENCE)
    assert (held.state, waiting.state) == ("STARTED", "QUEUED")
    shifted.go(key, 3)
    assert [each.get(timeout=PATIENCE) for each in (held, other, waiting)] == [key] * 3
    endless = shop.endless.apply_async([key], queue="gpu.t4.shared")
    with pytest.raises(TimeLimitExceeded):
        endless.get(timeout=PATIENCE)
    until(lambda: not shifted.holders(), PATIENCE, "all slots are free")
