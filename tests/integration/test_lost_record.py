"""Redis has lost the record of a job that runs: its work counts all the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from gpuqueue.store.keys import class_key
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]
GPU = "gpu.t4.shared"


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]) -> Iterator[Stack]:
    with listed(running_stacks, Stack(tmp_path_factory.mktemp("lost"))) as made:
        yield made


def test_a_task_that_ends_before_its_adoption_has_its_result(stack: Stack, key: str) -> None:
    dispatcher = stack.dispatcher()
    job = stack.shop.hold.apply_async([key], queue=GPU)
    assert stack.told(key)
    stack.in_state(job.id, "running")
    executor = stack.process_of(stack.known(job.id))
    os.kill(dispatcher.pid, signal.SIGSTOP)
    stack.client.hdel(class_key("t4", "jobs"), job.id)
    stack.client.delete(class_key("t4", "holders_shared"))
    stack.go(key)
    # It reports to a Redis that does not know it, and no leader has adopted it yet.
    calls = commands(stack)
    until(lambda: commands(stack) >= calls + 4, PATIENCE, "the executor reports again and again")
    assert executor.is_running() and job.state == "STARTED"
    os.kill(dispatcher.pid, signal.SIGCONT)
    assert job.get(timeout=PATIENCE) == key
    until(lambda: not stack.holders(), PATIENCE, "its slot is free")


def commands(stack: Stack) -> int:
    found = stack.client.info("commandstats")
    return int(found.get("cmdstat_evalsha", {"calls": 0})["calls"])
