"""A dispatcher leaves within the grace period of its pod, whether or not its peers answer; the jobs
that it had begun go on.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.support.nodes import WorkerNode
from tests.support.waiting import PATIENCE, until
from tests.upgrade.stream import SHARED, SOON, Versions, leave, probe

#: The messages that dispatchers have in hand.
IN_HAND = f"gpuqueue:1:{{{SHARED}}}:texts"
pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]
#: Seconds that an API server may take to answer, and a dispatcher to leave: short for tests.
API_TIMEOUT, LEAVE_WITHIN = 3.0, 5.0
SOON_GONE = {"GPUQUEUE_LEAVE_SECONDS": f"{LEAVE_WITHIN:g}"}


def begin(cluster: Versions, name: str = "one", **env: str) -> WorkerNode:
    node = cluster.begin(name, env={"GPU_API_TIMEOUT": f"{API_TIMEOUT:g}"} | env)
    cluster.ready(node)
    return node


def term(node: WorkerNode) -> float:
    node.container._popen.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
    return time.monotonic()


def end_of(node: WorkerNode, within: float) -> int:
    code: int = node.container._popen.wait(within)  # type: ignore[union-attr]
    return code


def test_an_idle_one_leaves_in_a_moment_and_is_not_ready_meanwhile(cluster: Versions) -> None:
    node = begin(cluster)
    term(node)
    assert until(
        lambda: (found := probe(node, "/readyz"))[0] != 200 and found, PATIENCE, "it is not ready"
    )[0] in (503, 0)
    assert end_of(node, SOON) == 0
    assert cluster.reader.leader() is None  # it has resigned
    assert cluster.reader.dispatchers(0) == []


@pytest.mark.local_only("who runs the jobs makes no difference")
def test_a_second_signal_changes_nothing(cluster: Versions) -> None:
    node = begin(cluster)
    results = [cluster.send("work", number) for number in range(20)]
    until(lambda: cluster.noted(), PATIENCE, "some have run")
    term(node)
    term(node)
    assert end_of(node, SOON) == 0
    begin(cluster, "two")
    assert [result.get(timeout=60) for result in results] == [2 * number for number in range(20)]
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert sorted(cluster.noted()) == sorted(f"ran {number}" for number in range(20))


def test_launches_on_a_hanging_api_server_are_ended_or_left_to_another(
    pods: Versions,
) -> None:
    node = begin(pods)
    rule = pods.cluster.faults.hang(method="POST", path="/jobs", times=None)
    results = [pods.send("work", number) for number in range(6)]
    until(lambda: rule.count >= 4, PATIENCE, "launches under way")
    assert leave(node, API_TIMEOUT + SOON) > 1.0
    pods.cluster.faults.clear()
    begin(pods, "two")
    assert [result.get(timeout=60) for result in results] == [2 * number for number in range(6)]
    until(pods.is_idle, PATIENCE, "an idle queue")
    assert sorted(pods.noted()) == [f"ran {number}" for number in range(6)]


def test_more_launches_than_it_can_end_are_left_to_another(pods: Versions) -> None:
    one_by_one = {"GPUQUEUE_LAUNCH_THREADS": "1", "T4_SHARED_SLOTS": "6", "GPU_API_TIMEOUT": "10"}
    node = begin(pods, **one_by_one, **SOON_GONE)
    rule = pods.cluster.faults.hang(method="POST", path="/jobs", times=None)
    results = [pods.send("work", number) for number in range(6)]
    until(
        lambda: rule.count and len(pods.holders()) == 6,
        PATIENCE,
        "six admitted, one launch under way",
    )
    term(node)
    assert end_of(node, LEAVE_WITHIN + SOON) == os.EX_TEMPFAIL
    assert (
        f"gpuqueue: shutdown timed out after {LEAVE_WITHIN:g} s; other dispatchers will take over"
        in node.logs()
    )
    pods.cluster.faults.clear()
    begin(pods, "two", T4_SHARED_SLOTS="6")
    assert [result.get(timeout=60) for result in results] == [2 * number for number in range(6)]
    until(pods.is_idle, PATIENCE, "an idle queue")
    assert sorted(pods.noted()) == [f"ran {number}" for number in range(6)]


@pytest.mark.local_only("who runs the jobs makes no difference")
def test_a_redis_that_does_not_answer_holds_it_no_longer_than_its_limit(
    cluster: Versions, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    node = begin(cluster, **SOON_GONE)
    running = cluster.send("hold", str(gate))
    until(lambda: "holding" in cluster.noted(), PATIENCE, "a running job")
    waiting = cluster.send("work", 1, queue="gpu.t4.exclusive")
    until(lambda: waiting.state == "QUEUED", PATIENCE, "one in line")
    redis = cluster.redis.container.server.pid
    os.kill(redis, signal.SIGSTOP)
    try:
        begun = term(node)
        assert end_of(node, LEAVE_WITHIN + SOON) == os.EX_TEMPFAIL
        assert LEAVE_WITHIN - 1 < time.monotonic() - begun < LEAVE_WITHIN + SOON
    finally:
        os.kill(redis, signal.SIGCONT)
    begin(cluster, "two")
    gate.touch()
    assert [running.get(timeout=30), waiting.get(timeout=30)] == ["held", 2]
    until(cluster.is_idle, PATIENCE, "an idle queue")
    assert cluster.noted() == ["holding", "ran 1"]


@pytest.mark.local_only("who runs the jobs makes no difference")
def test_a_message_in_hand_goes_back_at_once_if_the_state_redis_hangs(
    cluster: Versions, tmp_path: Path
) -> None:
    with EmbeddedRedis(tmp_path / "state") as state:
        hour = {
            "GPUQUEUE_REDIS_URL": state.url,
            "GPUQUEUE_VISIBILITY_SECONDS": "3600",
        }
        node = begin(cluster, **hour)
        os.kill(state.pid, signal.SIGSTOP)
        try:
            result = cluster.send("work", 1)
            until(lambda: cluster.client.hlen(IN_HAND) == 1, PATIENCE, "a message in hand")
            term(node)
            assert end_of(node, 30 + SOON) in (0, os.EX_TEMPFAIL)
            assert (cluster.client.hlen(IN_HAND), cluster.client.llen(SHARED)) == (0, 1)
        finally:
            os.kill(state.pid, signal.SIGCONT)
        begin(cluster, "two", **hour)
        assert result.get(timeout=30) == 2
