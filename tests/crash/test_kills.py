"""Messages are sent while dispatchers are killed, at random and at the steps of the intake: none is
lost, and none is accepted twice.

GPUQUEUE_TEST_SENDS and GPUQUEUE_TEST_KILLS make it larger: 10,000 and 200 were run by hand.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from gpuqueue.store.dead_letters import DeadLetters
from tests.support.crash_stack import CrashStack
from tests.support.nodes import WorkerNode
from tests.support.waiting import PATIENCE, until

SENDS = int(os.environ.get("GPUQUEUE_TEST_SENDS", "400"))
KILLS = int(os.environ.get("GPUQUEUE_TEST_KILLS", "6"))
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(120 + 15 * KILLS),
    pytest.mark.local_only("nothing is launched here"),
]
SHARED = "gpu.t4.shared"
#: Where a dispatcher dies: before and after each step of the intake.
STEPS = [
    f"{step}:{when}"
    for step in (
        "gpuqueue.store.intake:Intake.take",
        "gpuqueue.dispatcher.intake:IntakeLoop._accept_one",
        "gpuqueue.dispatcher.accept:Accept.__call__",
        "gpuqueue.store.line:Line.take_in",
        "gpuqueue.dispatcher.intake:IntakeLoop._accept_all",
    )
    for when in ("before", "after")
]


def in_hand(cluster: CrashStack) -> int:
    return int(cluster.client.hlen(f"gpuqueue:1:{{{SHARED}}}:texts"))


def letters(cluster: CrashStack) -> int:
    return DeadLetters(cluster.client).count()


def test_no_message_is_lost_or_doubled_while_dispatchers_are_killed(cluster: CrashStack) -> None:
    chance = random.Random(7)
    names = (f"d{number}" for number in itertools.count())
    steps = itertools.cycle(STEPS)
    victims: list[tuple[WorkerNode, float]] = []
    sent, kills = 0, 0

    def begin() -> None:
        """Start a dispatcher that dies at a step of the intake, or is killed after a while."""
        cluster.mark.unlink(missing_ok=True)
        step = next(steps) if chance.random() < 0.5 else None
        victims.append((cluster.start(next(names), step), time.monotonic() + chance.uniform(1, 6)))

    def send(most: int) -> None:
        nonlocal sent
        for _ in range(min(most, SENDS - sent)):
            cluster.send("work", sent, countdown=86_400, priority=chance.choice((0, 3, 9)))
            sent += 1

    for _ in range(2):
        begin()
    while kills < KILLS:
        send(max(1, SENDS // (KILLS * 20)))
        for node, due in list(victims):
            if node.container.exit_code is None and time.monotonic() > due:
                os.kill(node.container.pid, signal.SIGKILL)
                send(SENDS // (KILLS * 4))  # right after it
                cluster.died(node)
            if node.container.exit_code is not None:
                assert node.container.exit_code == -signal.SIGKILL, node.logs()
                kills += 1
                victims.remove((node, due))
                begin()
        time.sleep(0.01)
    send(SENDS)
    for node, _ in victims:
        with suppress(ProcessLookupError):
            os.kill(node.container.pid, signal.SIGKILL)
    cluster.start("heir")
    until(
        lambda: len(cluster.records()) + letters(cluster) >= SENDS,
        60 + SENDS / 50,
        "every message is accepted",
        lambda: f"{len(cluster.records())} of {SENDS}, {letters(cluster)} letters",
    )
    until(lambda: not in_hand(cluster), PATIENCE, "no message is in hand")
    records = cluster.records()
    assert letters(cluster) == 0
    assert sorted(each["id"] for each in records) == sorted(cluster.sent)
    accepted = cluster.client.hget("gpuqueue:1:{t4}:counts", "accepted:shared")
    assert int(accepted or 0) == SENDS, "each message is accepted once"
    print(f"{SENDS} messages, {kills} kills: none lost, none twice")


def test_a_message_sent_right_after_a_kill_is_not_lost(cluster: CrashStack) -> None:
    for number in range(3):
        node = cluster.start(f"d{number}")
        assert cluster.send("work", 10 + number).get(timeout=30) == 2 * (10 + number)
        os.kill(node.container.pid, signal.SIGKILL)
        result = cluster.send("work", number)
        cluster.start(f"heir{number}")
        assert result.get(timeout=30) == 2 * number


@pytest.mark.parametrize("step", STEPS)
def test_the_messages_of_a_dispatcher_killed_at_a_step_are_taken_at_once(
    cluster: CrashStack, step: str, tmp_path: Path
) -> None:
    cluster.env["GPUQUEUE_VISIBILITY_SECONDS"] = "3600"
    results = [cluster.send("work", number) for number in range(4)]
    doomed = cluster.start("doomed", step)
    assert cluster.died(doomed) == -signal.SIGKILL
    late = cluster.send("work", 4)
    cluster.start("heir")
    assert [each.get(timeout=30) for each in (*results, late)] == [0, 2, 4, 6, 8]
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert sorted(cluster.noted()) == [f"ran {number}" for number in range(5)]
    until(lambda: not in_hand(cluster), PATIENCE, "no message is in hand")
    assert letters(cluster) == 0
