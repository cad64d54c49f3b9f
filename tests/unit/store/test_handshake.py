"""A connection says no more than it must: an executor opens three for one job."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import connect
from gpuqueue.store.handshake import shorten

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


def test_a_client_checks_its_connection_and_says_no_more(url: str) -> None:
    with connect(url) as client, redis.Redis.from_url(url) as observer:
        assert _first(client, observer) == {"get", "ping"}


def test_a_pool_that_another_library_made_can_be_shortened(url: str) -> None:
    with redis.Redis.from_url(url) as client, redis.Redis.from_url(url) as observer:
        shorten(client.connection_pool)
        assert _first(client, observer) == {"get"}


def _first(client: redis.Redis, observer: redis.Redis) -> set[str]:
    observer.config_resetstat()
    client.get("nothing")
    stats = observer.info("commandstats")
    known = {name.removeprefix("cmdstat_") for name in stats}
    return known - {"config|resetstat", "config", "info"}
