"""Commands are repeated while their errors pass, also where redis-py itself repeats nothing."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from gpuqueue.executor.waiting import at_stake, wait_for_redis
from gpuqueue.store.client import connect
from tests.support.sentinels import HOST, MASTER, Server

pytestmark = pytest.mark.integration

#: Each of these connections is killed between its greeting and its first command.
KILLS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("redis")
    made = Server(folder / "data", [f'unixsocket "{folder}/redis.sock"', 'save ""']).start()
    yield made
    made.end()


@pytest.fixture(scope="module")
def sentinel(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    watched = [f"sentinel monitor {MASTER} {HOST} {server.port} 1"]
    made = Server(tmp_path_factory.mktemp("sentinel") / "data", watched, "--sentinel").start()
    yield made
    made.end()


@pytest.fixture
def address(server: Server, sentinel: Server, request: pytest.FixtureRequest) -> str:
    """The address of the server, of the kind that the test asks for."""
    if request.param == "sentinel":
        return f"sentinel://{HOST}:{sentinel.port}/0?master_name={MASTER}"
    if request.param == "unix":
        return f"unix://{server.client.config_get('unixsocket')['unixsocket']}"
    return f"redis://{HOST}:{server.port}/0"


ADDRESSES = pytest.mark.parametrize("address", ["redis", "unix", "sentinel"], indirect=True)


def kill_new_connections(pool: redis.ConnectionPool, observer: redis.Redis, times: int) -> None:
    """Have the server kill the connections that a pool opens, each as soon as it has greeted."""
    options: dict[str, Any] = pool.connection_kwargs
    greet, left = options["redis_connect_func"], [None] * times

    def greet_and_die(connection: Any) -> None:
        greet(connection)
        if left:
            left.pop()
            assert observer.client_kill_filter(_type="normal", skipme=True)
            assert select.select([connection._sock], [], [], 10)[0], "it is closed"

    options["redis_connect_func"] = greet_and_die


@ADDRESSES
def test_connections_killed_on_their_way_out_are_replaced(server: Server, address: str) -> None:
    with connect(address) as client:
        kill_new_connections(client.connection_pool, server.client, KILLS)
        assert client.set("key", "text")
    with connect(address) as client, client.pipeline() as pipe:
        kill_new_connections(client.connection_pool, server.client, KILLS)
        assert pipe.get("key").execute() == ["text"]


@ADDRESSES
def test_celery_in_an_executor_replaces_them_too(server: Server, address: str) -> None:
    app = Celery("waits", broker=address, backend=address, set_as_current=False)
    if address.startswith("unix"):
        app.conf.broker_url = address.replace("unix:", "redis+socket:")
        app.conf.result_backend = app.conf.broker_url
    if address.startswith("sentinel"):
        app.conf.broker_url = app.conf.result_backend = address.partition("?")[0]
        app.conf.broker_transport_options = {"master_name": MASTER}
        app.conf.result_backend_transport_options = {"master_name": MASTER}
    app.conf.task_publish_retry_policy = {"max_retries": 0}
    wait_for_redis(app)
    with app.connection_for_write() as connection, at_stake():
        pool = connection.default_channel.pool
        kill_new_connections(pool, server.client, KILLS)
        with app.amqp.Producer(connection) as producer:
            app.send_task("anything", queue=f"queue{id(app)}", producer=producer)
    assert server.client.llen(f"queue{id(app)}") == 1
    kill_new_connections(app.backend.client.connection_pool, server.client, KILLS)
    app.backend.set("result", "text")
    assert server.client.get("result") == "text"
    app.close()


def test_a_server_that_is_away_is_waited_for_once(server: Server) -> None:
    """The pool does not repeat what its connection has repeated."""
    tries = []

    def refused(connection: Any) -> None:
        tries.append(connection)
        raise redis.ConnectionError("refused")

    with connect(f"redis://{HOST}:{server.port}/0", retries=2) as client:
        client.connection_pool.connection_kwargs["redis_connect_func"] = refused
        with pytest.raises(redis.ConnectionError, match="refused"):
            client.get("key")
    assert len(tries) == 3


def test_a_redis_client_before_6_is_told_which_errors_it_repeats(server: Server) -> None:
    with connect(f"redis://{HOST}:{server.port}/0") as client:
        made: Any = client.connection_pool.make_connection()
        assert redis.RedisError in made.retry_on_error
