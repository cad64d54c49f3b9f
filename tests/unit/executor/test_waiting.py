"""Celery in an executor waits for Redis: the result backend always, messages while a task runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.executor import redis_of, waiting
from gpuqueue.executor.waiting import at_stake, wait_for_redis
from tests.support.scripted_redis import OK, Answer, ScriptedRedis
from tests.support.waiting import until

READONLY = b"-READONLY You can't write against a read only replica.\r\n"


@pytest.fixture
def connect() -> Iterator[Callable[[str], Celery]]:
    """Make an application that waits for the Redis of an address."""
    apps = []

    def made(url: str) -> Celery:
        app = Celery("waits", broker=url, backend=url, set_as_current=False)
        app.conf.task_publish_retry_policy = {"max_retries": 0}
        wait_for_redis(app)
        apps.append(app)
        return app

    yield made
    for app in apps:
        app.close()


def failing(times: int, *words: str) -> Answer:
    """Answer READONLY to some commands for a number of times, and OK to all others."""
    left = [READONLY] * times

    def answer(command: list[str]) -> bytes:
        return left.pop() if left and command[0] in words else OK

    return answer


def tries(server: ScriptedRedis, word: str) -> int:
    return sum(command[0] == word for command in server.commands)


def errors(client: redis.Redis) -> int:
    """How often Redis has refused a write."""
    found: int = client.info("errorstats")["errorstat_NOREPLICAS"]["count"]
    return found


def publish(app: Celery) -> None:
    app.send_task("anything", ignore_result=True)


def test_a_result_is_written_when_redis_takes_writes_again(
    connect: Callable[[str], Celery],
) -> None:
    with ScriptedRedis(failing(3, "SET")) as server:
        connect(server.url).backend.client.set("key", "text")
        assert tries(server, "SET") == 4


def test_a_message_waits_only_while_a_task_runs(connect: Callable[[str], Celery]) -> None:
    with (
        EmbeddedRedis() as server,
        redis.Redis.from_url(server.url, decode_responses=True) as client,
    ):
        app = connect(server.url)
        client.config_set("min-replicas-to-write", "1")
        with pytest.raises(OperationalError, match="NOREPLICAS"):
            publish(app)
        given = errors(client)

        def end() -> None:
            until(lambda: errors(client) >= given + 5, what="five errors more")
            client.config_set("min-replicas-to-write", "0")

        ending = threading.Thread(target=end)
        ending.start()
        with at_stake():
            publish(app)
        ending.join()
        assert client.llen("celery") == 1


def test_an_outage_is_waited_for_once_by_all_commands_together(
    connect: Callable[[str], Celery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.3)
    with ScriptedRedis(lambda words: READONLY) as server:
        client = connect(server.url).backend.client
        began = time.monotonic()
        for _ in range(5):
            with pytest.raises(redis.exceptions.ReadOnlyError):
                client.set("key", "text")
        assert time.monotonic() - began >= 0.3
        assert tries(server, "SET") < 10


REFUSALS = [
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOPERM this user has no permissions to run the 'set' command",
    "DENIED Redis is running in protected mode because protected mode is enabled",
]


@pytest.mark.parametrize("line", REFUSALS)
def test_a_refusal_is_waited_for_only_while_work_is_at_stake(
    connect: Callable[[str], Celery], line: str
) -> None:
    left = [line] * 3

    def answer(command: list[str]) -> bytes:
        return f"-{left.pop()}\r\n".encode() if left and command[0] == "SET" else OK

    with ScriptedRedis(answer) as server:
        for client in (connect(server.url).backend.client, redis_of.client(server.url)):
            left[:] = [line] * 3
            with pytest.raises(redis.RedisError, match=line.partition(" ")[2]):
                client.set("key", "text")
            assert len(left) == 2
            with at_stake():
                client.set("key", "text")
            assert not left
            client.close()


def test_any_other_refusal_ends_work_that_is_at_stake() -> None:
    def answer(command: list[str]) -> bytes:
        return b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"

    with ScriptedRedis(answer) as server, redis_of.client(server.url) as client, at_stake():
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.set("key", "text")
        assert tries(server, "SET") == 1


def test_work_is_at_stake_until_the_outermost_hand_is_done() -> None:
    with at_stake():
        with at_stake():
            pass
        assert waiting.StakePatience.at_stake
    assert not waiting.StakePatience.at_stake
