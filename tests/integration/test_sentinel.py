"""A Redis behind Sentinels: its primary dies, hangs, or changes its role; and wrong addresses."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
from celery import Celery

from gpuqueue.dispatcher.celery_sentinel import ask_sentinels
from gpuqueue.errors import (
    ServerNotReady,
    ServerRefuses,
    ServerUnreachable,
)
from gpuqueue.executor.waiting import wait_for_redis
from gpuqueue.model.celery_redis import read
from gpuqueue.model.sentinel_url import parse
from gpuqueue.store import passing, sentinel
from gpuqueue.store.client import check, connect, look
from tests.support.failovers import fail_over
from tests.support.scripted_redis import ScriptedRedis
from tests.support.sentinels import HOST, MASTER, SentinelSet
from tests.support.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSet]:
    with SentinelSet(tmp_path_factory.mktemp("servers")) as made:
        yield made


@pytest.fixture
def address(servers: SentinelSet) -> str:
    """The address of the state, with every Redis up."""
    servers.whole()
    found = read(servers.env).state
    assert found is not None
    return found


def away(servers: SentinelSet, end: Callable[[], None], write: Callable[[], object]) -> None:
    """Write while the primary is away; the write reaches the next primary."""
    old = servers.primary()
    end()
    try:
        write()
        assert servers.primary() is not old
    finally:
        servers.rejoin(old)


def test_a_command_reaches_the_next_primary(servers: SentinelSet, address: str) -> None:
    with connect(address, retries=30) as client:
        client.set("before", "1")
        away(servers, servers.primary().end, lambda: client.set("after", "1"))
        assert client.get("after") == "1"


def test_a_command_in_flight_is_repeated_at_the_next_primary(
    servers: SentinelSet, address: str
) -> None:
    """The connection that a command has when the server hangs connects again: not to this one."""
    with connect(address, timeout=3, retries=60) as client:
        client.set("before", "1")
        away(servers, servers.primary().pause, lambda: client.set("hung", "1"))
        assert client.get("hung") == "1"


@pytest.mark.slow
def test_no_connection_to_an_old_primary_is_used_again(servers: SentinelSet, address: str) -> None:
    """It is a replica now: it answers what it had, and refuses writes."""
    with connect(address, retries=30) as client:
        old = servers.primary()
        gate = threading.Barrier(5)
        threads = [
            threading.Thread(target=lambda: (gate.wait(), client.blpop(["none"], 0.5)))
            for _ in range(4)
        ]
        for each in threads:
            each.start()
        gate.wait()
        for each in threads:
            each.join()
        servers.sentinels[0].client.sentinel_failover(MASTER)
        servers.fail_over(old)
        until(lambda: old.client.role()[0] == "slave", what="the old primary is a replica")
        for _ in range(8):
            client.set("anything", "1")
        ports = {each.port for each in client.connection_pool._available_connections if each._sock}
        assert ports == {servers.primary().port}


@pytest.mark.slow
def test_no_write_goes_to_a_primary_that_the_sentinels_cannot_reach(tmp_path: Path) -> None:
    """It takes writes until the Sentinels reach it again, which then takes them back."""
    with SentinelSet(tmp_path, ["user client on >pw allkeys allchannels allcommands"]) as made:
        url = made.url.replace("sentinel://", "sentinel://client:pw@")
        celery = read(made.env | {"CELERY_BROKER_URL": url})
        app = Celery("writes", set_as_current=False)
        app.conf.update(celery.celery())
        ask_sentinels(app)
        assert celery.state is not None
        with connect(celery.state, retries=60) as client, app.connection_for_write() as broker:
            channel = broker.default_channel
            clients = {"state": client, "broker": channel.client, "backend": app.backend.client}
            for name, each in clients.items():
                each.set(name, "before")
            old = made.primary()
            old.cut_off("client:pw")
            made.fail_over(old)
            assert old.runs
            for name, each in clients.items():
                there = partial(reached, made, each, name)
                until(there, what=f"{name} writes to the new primary")
        app.close()


def reached(servers: SentinelSet, client: redis.Redis, name: str) -> bool:
    """Write, and tell whether the primary has it."""
    try:
        client.set(name, "after")
    except redis.ConnectionError as exc:  # once
        assert "another server is the primary now" in str(exc)
    return bool(servers.primary().client.get(name) == "after")


def test_the_result_of_a_job_waits_for_the_next_primary(servers: SentinelSet, address: str) -> None:
    """Celery's own connection would go on asking the server that is gone."""
    celery = read(servers.env).celery()
    app = Celery("waits", set_as_current=False)
    app.conf.update(celery)
    wait_for_redis(app)
    client = app.backend.client
    client.set("before", "1")
    # The command is under way, on a connection that is open.
    answers: list[object] = []
    waits = threading.Thread(target=lambda: answers.append(client.blpop(["go"], 60)))
    waits.start()
    primary = servers.primary()
    until(lambda: primary.client.info("clients")["blocked_clients"], what="it waits")

    def write() -> None:
        servers.fail_over(primary)
        with connect(address, retries=30) as other:
            other.rpush("go", "on")
        waits.join(60)

    away(servers, primary.end, write)
    assert answers == [(b"go", b"on")]
    app.close()


@pytest.mark.parametrize("kind", ["name", "redis", "nothing"])
def test_a_wrong_address_is_refused_with_its_fix(
    servers: SentinelSet, address: str, kind: str
) -> None:
    wrong = {
        "name": address.replace(MASTER, "other"),
        "redis": f"sentinel://{HOST}:{servers.primary().port}?master_name={MASTER}",
        "nothing": f"sentinel://{HOST}:1;sentinel://{HOST}:2?master_name={MASTER}",
    }[kind]
    error, texts = {
        "name": (
            ServerRefuses,
            ("watch no primary 'other', but mymaster", "correct its master_na"),
        ),
        "redis": (ServerRefuses, ("is no Sentinel", "use the port of a Sentinel")),
        "nothing": (ServerUnreachable, ("no Sentinel answers", "start the Sentinels")),
    }[kind]
    with connect(wrong, timeout=2, retries=0) as client:
        with pytest.raises(error) as raised:
            check(client, wrong, "GPUQUEUE_REDIS_URL")
        assert str(raised.value).startswith("GPUQUEUE_REDIS_URL='sentinel://")
        assert all(text in str(raised.value) for text in texts), raised.value
        if error is not ServerUnreachable:
            with pytest.raises(error):
                look(client, wrong, "GPUQUEUE_REDIS_URL")


def test_a_wrong_password_of_sentinels_is_refused(tmp_path: Path) -> None:
    with SentinelSet(tmp_path, sentinel_lines=["requirepass secret"], password="secret") as made:
        for password, right in (("wrong", False), ("secret", True)):
            options = {**made.options, "sentinel_kwargs": {"password": password}}
            env = {
                "CELERY_BROKER_URL": made.url,
                "GPUQUEUE_BROKER_TRANSPORT_OPTIONS": json.dumps(options),
            }
            url = read(env).state
            assert url is not None
            with connect(url, timeout=3, retries=0) as client:
                if right:
                    check(client, url)
                    continue
                with pytest.raises(ServerRefuses) as raised:
                    check(client, url)
                assert "correct username and password in its sentinel_kwargs" in str(raised.value)
                assert "secret" not in str(raised.value) and "wrong" not in str(raised.value)


@pytest.mark.slow
def test_a_primary_without_a_successor_is_waited_for(tmp_path: Path) -> None:
    """The quorum is lost, so that the Sentinels may elect none."""
    with SentinelSet(tmp_path) as made:
        url = read(made.env).state
        assert url is not None
        with connect(url, timeout=2, retries=0) as client:
            check(client, url)
            for each in made.sentinels[1:]:
                each.end()
            made.primary().end()

            def refusal() -> str:
                with pytest.raises(ServerUnreachable) as raised:
                    check(client, url)
                return str(raised.value) if isinstance(raised.value, ServerNotReady) else ""

            text = until(refusal, what="the Sentinel has seen it")
            assert "has no primary: the primary 'mymaster' at" in text
            assert "when its Sentinels have elected one" in text
            look(client, url, "CELERY_BROKER_URL")
        made.sentinels[1].start()
        with connect(url, retries=40) as patient:
            patient.set("after", "1")


def test_the_newest_answer_of_most_sentinels_counts() -> None:
    """One that was cut off while another primary was elected still names the old one."""

    def says(port: int, epoch: int, flags: str = "master") -> ScriptedRedis:
        state = {
            "name": MASTER,
            "ip": HOST,
            "port": str(port),
            "flags": flags,
            "num-other-sentinels": "2",
            "config-epoch": str(epoch),
        }
        words = [word for pair in state.items() for word in pair]
        body = b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)
        answer = b"*1\r\n%%%d\r\n%s" % (len(state), body)
        return ScriptedRedis(lambda command: answer if command[0] == "SENTINEL" else b"+OK\r\n")

    with says(1, 4) as stale, says(2, 5) as new, says(2, 5) as same:
        addresses = [each.url.replace("redis:", "sentinel:") for each in (stale, new, same)]
        url = ";".join(each.rpartition("/")[0] for each in addresses)
        found = sentinel.Sentinels.at(parse(f"{url}?master_name={MASTER}"), 3)
        assert found.discover_master(MASTER) == (HOST, 2)
    with says(1, 4, "master,s_down") as cut, says(1, 4) as sees:
        addresses = [each.url.replace("redis:", "sentinel:") for each in (cut, sees)]
        url = ";".join(each.rpartition("/")[0] for each in addresses)
        found = sentinel.Sentinels.at(parse(f"{url}?master_name={MASTER}"), 3)
        assert found.discover_master(MASTER) == (HOST, 1)


def test_errors_of_sentinels_pass() -> None:
    """Jobs that run wait for the Sentinels, even if these have lost their configuration."""
    for error in (sentinel.NoSentinel(), sentinel.NoPrimary(), sentinel.UnknownPrimary()):
        assert passing.passes(error)
    for refusal in (sentinel.SentinelRefuses(), sentinel.NotASentinel()):
        assert not passing.passes(refusal)
    assert passing.describe(redis.sentinel.MasterNotFoundError()).problem == "has no primary"


def test_a_scrape_asks_dead_sentinels_within_its_time(servers: SentinelSet, address: str) -> None:
    for each in servers.sentinels:
        each.pause()
    try:
        with connect(address, timeout=2.0, retries=0) as client:
            began = time.monotonic()
            with pytest.raises(sentinel.NoSentinel):
                client.ping()
            assert time.monotonic() - began < 5
    finally:
        for each in servers.sentinels:
            each.resume()


@pytest.mark.slow
def test_nothing_is_lost_when_the_primary_is_killed_under_load(tmp_path: Path) -> None:
    found = fail_over(tmp_path, int(os.environ.get("GPUQUEUE_TEST_FAILOVERS", "1")), quick=True)
    assert found.jobs > 0
    assert (found.lost, found.run_twice, found.failed) == (0, 0, 0), found
