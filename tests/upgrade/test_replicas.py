"""Replicas come and go, in order and not, under a stream of jobs: none is lost, and none runs
twice.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from celery.result import AsyncResult

from tests.support.nodes import WorkerNode
from tests.support.waiting import PATIENCE, until
from tests.upgrade.stream import SHARED, Stream, Versions, leave, probe

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]


def replicas(cluster: Versions, *names: str, **env: str) -> list[WorkerNode]:
    """Start some at once, and wait until all are ready."""
    nodes = [cluster.begin(name, env=env) for name in names]
    for node in nodes:
        cluster.ready(node)
    return nodes


def leading(cluster: Versions, nodes: list[WorkerNode]) -> WorkerNode:
    leader = until(cluster.reader.leader, PATIENCE, "a leader")
    return next(node for node in nodes if node.hostname() == leader)


def test_nothing_is_lost_when_replicas_go_down_to_none_and_up_again(cluster: Versions) -> None:
    slow = {"GPUQUEUE_LEASE_SECONDS": "30"}  # those who wait for its end come too late
    nodes = replicas(cluster, "a", "b", "c", **slow)
    with Stream(cluster) as stream:
        leader = leading(cluster, nodes)
        leave(leader)
        left = [node for node in nodes if node is not leader]
        begun = time.monotonic()
        assert leading(cluster, left) is not leader
        assert time.monotonic() - begun < 15, "it has resigned"
        leave(left[0])  # all but one
        until(lambda: len(stream.sent) > 15, PATIENCE, "jobs that one alone takes")
        leave(left[1])  # none: messages wait in the broker, jobs in line, and what runs goes on
        until(lambda: cluster.client.llen(SHARED), PATIENCE, "untaken messages")
        replicas(cluster, "d", "e")
        until(lambda: not cluster.client.llen(SHARED), PATIENCE, "they are taken")
    stream.check()


@pytest.mark.local_only("on the cluster tests/crash kills them at every step")
def test_nothing_is_lost_when_replicas_are_killed(cluster: Versions) -> None:
    nodes = replicas(cluster, "a", "b")
    with Stream(cluster) as stream:
        until(lambda: len(stream.sent) > 5, PATIENCE, "some jobs")
        leader = leading(cluster, nodes)
        leader.kill()
        fresh = replicas(cluster, "c")
        (other,) = [node for node in nodes if node is not leader]
        leave(other)
        until(lambda: len(stream.sent) > 20, PATIENCE, "some more jobs")
    leave(fresh[0])
    replicas(cluster, "d")
    stream.check()


@pytest.mark.local_only("nothing is launched here")
def test_a_dispatcher_that_leaves_gives_its_messages_back_at_once(
    cluster: Versions,
) -> None:
    hour = {
        "GPUQUEUE_VISIBILITY_SECONDS": "3600"
    }  # nothing comes back in time by running out of that
    (first,) = replicas(cluster, "first", **hour)
    sent: list[AsyncResult] = []

    def is_told_in_the_middle() -> bool:
        """Whether it must stop, while it has taken some of the messages that came at once."""
        with stopped(first.container.pid):
            taken, left = len(cluster.records()), cluster.client.llen(SHARED)
            if not left:
                numbers = range(len(sent), len(sent) + 400)
                sent.extend(cluster.send("work", number, countdown=3600) for number in numbers)
            elif taken > 20 and left > 100:
                os.kill(first.container.pid, signal.SIGTERM)
                return True
        return False

    until(is_told_in_the_middle, PATIENCE, "it is in the middle of them")
    until(lambda: first.container.exit_code is not None, PATIENCE, "it has left", first.logs)
    assert first.container.exit_code == 0
    assert cluster.client.hlen(f"gpuqueue:1:{{{SHARED}}}:texts") == 0
    taken, left = {record["id"] for record in cluster.records()}, cluster.client.llen(SHARED)
    assert len(taken) + left == len(sent)
    assert left > 0
    replicas(cluster, "second", **hour)
    until(lambda: len(cluster.records()) == len(sent), PATIENCE, "the other takes the rest")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def pause(pid: int, seconds: float) -> None:
    """Stop a process for a while: servers from Redis 7 on refuse DEBUG SLEEP."""
    with stopped(pid):
        time.sleep(seconds)


@pytest.mark.local_only("who runs the jobs makes no difference")
def test_a_busy_dispatcher_is_healthy_and_one_whose_redis_is_slow_is_too(cluster: Versions) -> None:
    (node,) = replicas(cluster, "one")
    answers: list[tuple[int, float]] = []

    def look() -> None:
        begun = time.monotonic()
        answers.append((probe(node, "/healthz")[0], time.monotonic() - begun))

    with stopped(node.container.pid):
        for number in range(200):
            cluster.send("work", number, countdown=3600)
        assert not cluster.records()
    while not answers or len(cluster.records()) < 200:
        look()
        pause(cluster.redis.container.server.pid, 0.2)  # every command waits for it
    assert {status for status, _ in answers} == {200}
    # The probe of the manifests gives it 10 s.
    assert max(seconds for _, seconds in answers) < 5.0
    assert probe(node, "/readyz")[0] == 200
