"""A connection says no more than it must: an executor opens three for one job."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.errors import ServerUnreachable
from gpuqueue.store.client import check, connect
from gpuqueue.store.handshake import shorten
from tests.support.waiting import until

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
        assert _first(client, observer) == {"get", "ping"}


@pytest.mark.parametrize("database", [0, 1])
def test_a_server_without_room_for_a_connection_is_waited_for(url: str, database: int) -> None:
    with redis.Redis.from_url(url, single_connection_client=True) as observer:
        before = observer.info("stats")["rejected_connections"]
        observer.config_set("maxclients", "1")

        def makes_room() -> None:
            until(
                lambda: observer.info("stats")["rejected_connections"] > before + 20,
                what="connections that the server refuses",
            )
            observer.config_set("maxclients", "100")

        def asks(_: int) -> object:
            with connect(f"{url[:-1]}{database}") as client:
                return client.get("nothing")

        with ThreadPoolExecutor(9) as threads:
            room = threads.submit(makes_room)
            assert list(threads.map(asks, range(8))) == [None] * 8
            room.result()


def test_a_server_without_room_says_so(url: str) -> None:
    with redis.Redis.from_url(url, single_connection_client=True) as observer:
        observer.config_set("maxclients", "1")
        try:
            client = connect(url, retries=0)
            with pytest.raises(ServerUnreachable, match="max number of clients reached"):
                check(client, url)
        finally:
            observer.config_set("maxclients", "100")


def _first(client: redis.Redis, observer: redis.Redis) -> set[str]:
    observer.config_resetstat()
    client.get("nothing")
    stats = observer.info("commandstats")
    known = {name.removeprefix("cmdstat_") for name in stats}
    return known - {"config|resetstat", "config", "info"}
