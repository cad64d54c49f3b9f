"""Dispatchers of one class with other settings: those of the leader hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]
QUICK = {"GPUQUEUE_LEASE_SECONDS": "0.5", "GPUQUEUE_TICK_SECONDS": "0.2"}


def test_a_dispatcher_admits_by_the_slots_of_the_leader(
    tmp_path: Path, running_stacks: list[Stack], key: str
) -> None:
    with listed(running_stacks, Stack(tmp_path, QUICK)) as stack:
        arguments = ("-Q", "gpu.t4.exclusive")
        leader = stack.dispatcher("leader", env={"T4_SHARED_SLOTS": "1"}, arguments=arguments)
        until(lambda: "this watcher leads" in leader.logs(), PATIENCE, "it leads", leader.logs)
        stack.dispatcher("accepts", env={"T4_SHARED_SLOTS": "3"}, arguments=("-Q", "gpu.t4.shared"))
        queue = "gpu.t4.shared"
        jobs = [stack.shop.hold.apply_async([key], queue=queue) for _ in range(3)]
        until(
            lambda: all(stack.reader.find(job.id, ["t4"]) for job in jobs),
            PATIENCE,
            "the jobs are accepted",
        )
        assert stack.told(key)
        assert stack.reader.classes()["t4"]["shared_slots"] == 1
        assert len(stack.reader.holders("t4")) == 1
        leader.stop()
        assert stack.told(key) and stack.told(key), "the other leads, and has three slots"
        assert stack.reader.classes()["t4"]["shared_slots"] == 3
        stack.go(key, 3)
        assert [job.get(timeout=PATIENCE) for job in jobs] == [key] * 3
