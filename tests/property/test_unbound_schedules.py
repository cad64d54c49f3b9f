"""Domains whose node does not exist yet: the rule holds on each node, for every schedule."""

from __future__ import annotations

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuqueue.model.ends import End
from gpuqueue.model.reasons import EndReason
from tests.property.scaled import AUTO, Kubernetes, Scaled
from tests.property.test_node_domains import SLOTS

pytestmark = pytest.mark.integration
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["shared", "shared", "exclusive", "end", "node", "gone", "look", "tell", "claim"]
        ),
        st.integers(0, 20),
    ),
    max_size=40,
)


def play(client: redis.Redis, events: list[tuple[str, int]]) -> None:
    """Play events, then let nodes come and jobs end until no job is left."""
    queue = Scaled(client, AUTO)
    cluster = Kubernetes(queue)
    queue.look()

    def end(name: str) -> None:
        del cluster.pods[name]
        cluster.start(queue.ends(name, End(EndReason.SUCCEEDED, "")))

    def add_node() -> None:
        if len(cluster.nodes) < 3:
            cluster.made += 1
            cluster.nodes.append(f"n{cluster.made}")

    def turn() -> None:
        for name in queue.stopped():
            end(name)
        cluster.start(queue.admit())
        cluster.schedule()
        cluster.check()

    for number, (what, which) in enumerate(events):
        queue.now += 1
        if what == "end" and cluster.pods:
            end(sorted(cluster.pods)[which % len(cluster.pods)])
        elif what == "node":
            add_node()
        elif what == "gone":
            used = {each["node"] for each in cluster.pods.values()}
            cluster.nodes = [each for each in cluster.nodes if each in used] or cluster.nodes
        elif what == "look":
            queue.look(*cluster.nodes)
        elif what == "tell":
            cluster.tell()
        elif what == "claim":
            cluster.claim(which)
        elif what in SLOTS:
            cluster.start(queue.send(f"{number:02}", what))
        turn()
    for _ in range(120):
        if not cluster.pods:
            break
        queue.now += 61
        add_node()
        queue.look(*cluster.nodes)
        turn()
        cluster.tell()
        placed = [name for name, pod in sorted(cluster.pods.items()) if pod["node"]]
        for name in placed[:1]:
            end(name)
        in_vain = [name for name, pod in sorted(cluster.pods.items()) if not pod["node"]]
        for name in in_vain[:1]:
            pinned = cluster.pods.pop(name)["pinned"]
            cluster.start((queue.finds_no_room if pinned else queue.finds_no_node)(name))
        turn()
    assert not cluster.pods and not queue.running, "each job has run"


@settings(max_examples=20, deadline=None)
@given(events=EVENTS)
def test_every_schedule_keeps_the_rule_and_ends(
    schedule_redis: redis.Redis, events: list[tuple[str, int]]
) -> None:
    play(schedule_redis, events)


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(events=EVENTS)
def test_every_one_of_many_schedules_keeps_the_rule_and_ends(
    schedule_redis: redis.Redis, events: list[tuple[str, int]]
) -> None:
    play(schedule_redis, events)
