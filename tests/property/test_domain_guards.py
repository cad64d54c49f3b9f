"""Classes of several domains: what keeps a decision right where something is lost or missing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from gpuqueue.store.keys import class_key
from tests.property.test_node_domains import AB, T4, Queue

pytestmark = pytest.mark.integration


@pytest.fixture
def queue(schedule_redis: redis.Redis) -> Queue:
    return Queue(schedule_redis)


def test_a_shared_job_waits_for_no_exclusive_one_where_none_runs(queue: Queue) -> None:
    queue.nodes({"a": {"shared": 0, "exclusive": 1}})
    assert queue.send("s") == []
    assert queue.why("s") == "NO_FREE_SLOT"


@pytest.mark.parametrize("isolation", ["shared", "exclusive"])
def test_a_job_whose_turn_was_lost_is_not_said_to_lack_a_slot(queue: Queue, isolation: str) -> None:
    queue.send("j", isolation, tenant="red")
    queue.nodes(AB)
    queue.client.delete(class_key("t4", "tenant_order"))
    assert queue.why("j") == "BEHIND_OTHERS"
    assert queue.admit() == ["j@a"]


def test_an_attempt_leaves_its_node_where_no_decision_follows(queue: Queue) -> None:
    """The nodes of the class are those of another cluster by now."""
    queue.nodes(AB)
    assert queue.send("s") == ["s@a"]
    queue.client.hset(class_key("t4", "gate"), "nodes_of", "other")
    queue.ends("s")
    assert queue.client.exists(f"{class_key('t4', 'domains')}:held") == 0


def test_a_class_of_one_domain_keeps_nothing_of_domains(schedule_redis: redis.Redis) -> None:
    queue = Queue(schedule_redis, replace(T4, domain=None))
    assert queue.send("s1") + queue.send("s2") == ["s1@None", "s2@None"]
    assert queue.kept() == []
