"""The lease of the watcher that leads: one holds it, and the others cannot prolong or end it."""

from __future__ import annotations

import pytest
import redis

from gpuqueue.store.keys import leader_key
from gpuqueue.store.lease import Lease

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
