"""The lease of the watcher that leads: one holds it, and the others cannot prolong or end it."""

from __future__ import annotations

import pytest
import redis

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.store.clock import redis_time
from gpuqueue.store.keys import leader_key
from gpuqueue.store.lease import Lease, group_of
from gpuqueue.store.listing import Listing

pytestmark = pytest.mark.integration
SECONDS = 60.0


@pytest.fixture
def server(schedule_redis: redis.Redis) -> redis.Redis:
    schedule_redis.flushdb()
    return schedule_redis


def held(lease: Lease) -> str:
    """Take or renew a lease; return how it went."""
    return "none" if not lease.hold() else "taken" if lease.taken else "kept"


def test_one_watcher_leads_until_it_resigns(server: redis.Redis) -> None:
    first, second = (Lease(server, "d@h", SECONDS) for _ in range(2))
    assert [held(first), held(second)] == ["taken", "none"]
    second.resign()
    assert held(first) == "kept", "no other ends it"
    first.resign()
    assert held(second) == "taken"


def test_a_watcher_that_has_lost_its_lease_takes_none_from_the_next(server: redis.Redis) -> None:
    first, second = (Lease(server, "d@h", SECONDS) for _ in range(2))
    assert first.hold()
    server.delete(leader_key(""))
    assert second.hold()
    server.pexpire(leader_key(""), 10_000)
    assert not first.hold()
    assert server.pttl(leader_key("")) <= 10_000, "another cannot prolong it"
    assert second.hold()
    assert server.pttl(leader_key("")) > 10_000


# -- for which classes a leader answers ------------------------------------------------------------


def test_the_queues_of_dispatchers_that_are_alive_are_known(server: redis.Redis) -> None:
    now = redis_time(server)
    first, second = Lease(server, "one", SECONDS), Lease(server, "two", SECONDS)
    first.announce([], now - 20, ["gpu.t4.shared", "gpu.t4"])
    second.announce([], now, ["gpu.t4"])
    listing = Listing(server)
    assert listing.consumed(10) == ["gpu.t4"]
    assert listing.consumed(30) == ["gpu.t4", "gpu.t4.shared"]
    first.announce([], now - 20)
    assert listing.consumed(30) == ["gpu.t4", "gpu.t4.shared"], "nothing is said of others"


def announced(server: redis.Redis, owner: str, *classes: str, at: float = 100.0) -> Lease:
    lease = Lease(server, f"{owner}@h", SECONDS, group_of(owner, classes))
    lease.announce([GpuClass(name) for name in classes], at)
    return lease


def test_a_group_alone_answers_for_all_its_classes(server: redis.Redis) -> None:
    lease = announced(server, "one", "a100", "t4")
    assert lease.hold()
    assert lease.speaks_for(["a100", "t4"], 0.0) == {"a100", "t4"}


def test_one_of_two_groups_answers_for_a_class_of_both(server: redis.Redis) -> None:
    first, second = announced(server, "a", "t4"), announced(server, "b", "a100", "t4")
    assert first.hold() and second.hold()
    assert first.speaks_for(["t4"], 0.0) == {"t4"}
    assert second.speaks_for(["a100", "t4"], 0.0) == {"a100"}


def test_a_group_without_a_leader_answers_for_no_class(server: redis.Redis) -> None:
    first, second = announced(server, "a", "t4"), announced(server, "b", "t4")
    assert second.hold()
    assert second.speaks_for(["t4"], 0.0) == {"t4"}
    assert first.hold()
    assert second.speaks_for(["t4"], 0.0) == set()


def test_a_group_that_was_not_heard_of_for_long_answers_no_more(server: redis.Redis) -> None:
    first, second = announced(server, "a", "t4", at=10.0), announced(server, "b", "t4")
    assert first.hold() and second.hold()
    assert second.speaks_for(["t4"], 50.0) == {"t4"}
