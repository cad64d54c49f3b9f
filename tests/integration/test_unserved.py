"""Dispatchers of different classes on one machine and one Redis: each looks after its own jobs, and
a class without a dispatcher is not forgotten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from gpuqueue.model.record import Record
from gpuqueue.store.keys import GROUPS
from tests.support.command_line import run_command
from tests.support.nodes import APPS, WorkerNode
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
#: The leader counts a class as unserved after 10 leases.
QUICK = {
    "GPUQUEUE_LEASE_SECONDS": "0.5",
    "GPUQUEUE_TICK_SECONDS": "0.2",
    "GPUQUEUE_RELIST_SECONDS": "0.5",
    "GPUQUEUE_REPAIR_SECONDS": "0.5",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]) -> Iterator[Stack]:
    with listed(running_stacks, Stack(tmp_path_factory.mktemp("two"), QUICK)) as made:
        made.dispatcher("t4")
        yield made


@pytest.fixture
def a100(stack: Stack) -> Iterator[WorkerNode]:
    """A dispatcher of another class alone."""
    node = start_a100(stack)
    yield node
    node.stop()


def start_a100(stack: Stack) -> WorkerNode:
    classes = Path(stack.directory) / "a100.toml"
    classes.write_text("[classes.a100]\nshared_slots = 1\nexclusive_slots = 1\n")
    env = {
        "GPUQUEUE_CLASSES_FILE": str(classes),
        "T4_SHARED_SLOTS": "0",
        "T4_EXCLUSIVE_SLOTS": "0",
    }
    return stack.dispatcher("a100", env=env, arguments=("-Q", "gpu.a100.shared"))


def send(stack: Stack, queue: str, key: str, **options: Any) -> Any:
    return stack.shop.hold.apply_async([key], queue=queue, **options)


def cli(stack: Stack, *arguments: str) -> Any:
    env = {**os.environ, "PYTHONPATH": str(APPS), **stack.env}
    return json.loads(run_command([*arguments, "--json"], env=env).stdout)


def heard(stack: Stack) -> float:
    """When the group heard least recently had its last heartbeat."""
    groups: Any = stack.client.zrange(GROUPS, 0, -1, withscores=True)
    return min(float(score) for _, score in groups)


def test_a_leader_leaves_the_jobs_of_other_classes_alone(
    stack: Stack, a100: WorkerNode, key: str
) -> None:
    jobs = [send(stack, queue, key) for queue in ("gpu.t4.shared", "gpu.a100.shared")]
    started = [stack.told(key) for _ in jobs]
    several_repairs = heard(stack) + 3
    until(lambda: heard(stack) > several_repairs, PATIENCE, "both leaders have repaired")
    stack.go(key, 2)
    assert [job.get(timeout=PATIENCE) for job in jobs] == [key, key]
    assert len(started) == 2 and stack.told_so_far(key) == []


@pytest.mark.slow
def test_jobs_of_an_unserved_class_expire_end_and_can_be_cancelled(stack: Stack, key: str) -> None:
    node = start_a100(stack)
    running = send(stack, "gpu.a100.shared", key)
    assert stack.told(key)
    expiring, cancelled, revoked = (
        send(stack, "gpu.a100.shared", key, expires=seconds) for seconds in (8, None, None)
    )
    for job in (expiring, cancelled, revoked):
        until(partial(record, stack, job), PATIENCE, "the job is accepted")
    node.stop()
    until(
        lambda: "no dispatcher serves class a100" in stack.workers[0].logs(),
        PATIENCE,
        "the leader of t4 has noticed",
        stack.workers[0].logs,
    )
    until(lambda: served(stack) == {"a100": False, "t4": True}, PATIENCE, "`status` shows it")
    why = cli(stack, "why", cancelled.id)
    assert (why["state"], why["reason"]) == ("waiting", "NO_DISPATCHER")
    checks = {each["name"]: each for each in cli(stack, "doctor")["checks"]}
    assert checks["classes"]["level"] == "FAIL"
    cli(stack, "cancel", cancelled.id)
    revoked.revoke()
    for job in (cancelled, revoked, expiring):
        with pytest.raises(TaskRevokedError):
            job.get(timeout=PATIENCE)
    stack.go(key)
    assert running.get(timeout=PATIENCE) == key
    until(lambda: not stack.reader.holders("a100"), PATIENCE, "its slot is free")
    assert stack.told_so_far(key) == [], "none of the waiting jobs has started"


def record(stack: Stack, job: Any) -> Record | None:
    return stack.reader.find(job.id, ["a100"])


def served(stack: Stack) -> dict[str, bool]:
    return {each["name"]: each["served"] for each in cli(stack, "status")["classes"]}
