"""A connection says no more than it must: an executor opens three for one job."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.errors import ServerUnreachable
from gpuqueue.store.client import check, connect
from gpuqueue.store.handshake import opened, prepare, shorten
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


def test_a_forked_process_takes_over_what_was_made_and_no_connection(url: str) -> None:
    with connect(url) as client:
        pool = client.connection_pool
        prepare(pool)
        [made] = pool._available_connections

        def seen() -> list[Any]:
            """Tell which connection a command uses: whether it was made before, and its id on the
            server, twice.
            """
            connection = opened(pool)
            pool.release(connection)
            return [connection is made, client.client_id(), client.client_id()]

        (is_made, first, again), (is_made_below, below, _) = forked(lambda: [seen(), forked(seen)])
        assert (is_made, first) == (True, again)
        assert not is_made_below and below != first
        assert client.client_id() not in (first, below)


def forked(run: Callable[[], list[Any]]) -> list[Any]:
    """Run a function in a forked process, and return its answer."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, json.dumps(run()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    found: list[Any] = json.loads(text)
    return found
