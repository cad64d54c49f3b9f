"""A connection to the broker that is lost without a word: the application of dispatchers and Flower
gives it up, and makes another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import connect
from tests.chaos.proxy import Proxy
from tests.support.stack import Stack, listed
from tests.support.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(60)]
#: Sends a command to workers at each line of its input, and prints the seconds that it took.
SEND = """
import sys, time
from gpuqueue.celery import app
connection = app.connection_for_write()
for _ in sys.stdin:
    began = time.monotonic()
    app.control.broadcast("heartbeat", connection=connection)
    print(time.monotonic() - began, flush=True)
"""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with EmbeddedRedis() as server:
        made = Proxy(int(server.url.rpartition(":")[2].partition("/")[0]))
        yield made
        made.close()


def test_a_silent_connection_is_given_up_and_replaced(proxy: Proxy) -> None:
    env = {
        **os.environ,
        "CELERY_BROKER_URL": f"redis://127.0.0.1:{proxy.port}/0",
        "GPUQUEUE_BROKER_TRANSPORT_OPTIONS": '{"socket_timeout": 3}',
    }
    with subprocess.Popen(
        [sys.executable, "-c", SEND],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def seconds() -> float:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        seconds()
        assert seconds() < 3
        proxy.lose()
        assert 3 <= seconds() < 15
        assert seconds() < 3
        assert process.stdin is not None
        process.stdin.close()


def test_a_dispatcher_that_idles_beyond_the_limit_keeps_its_connections(
    tmp_path: Path, running_stacks: list[Stack]
) -> None:
    env = {"GPUQUEUE_BROKER_TRANSPORT_OPTIONS": '{"socket_timeout": 3}'}
    with listed(running_stacks, Stack(tmp_path, env)) as stack:
        node = stack.dispatcher()
        client: Any = connect(stack.url)

        def listening() -> dict[str, int]:
            """The connections that only listen → seconds since they sent a command."""
            return {
                each["id"]: int(each["idle"])
                for each in client.client_list()
                if each["sub"] != "0" or each["psub"] != "0"
            }

        until(lambda: len(listening()) >= 1, 20, "it listens for commands", node.logs)
        before = set(listening())
        until(lambda: max(listening().values()) >= 4, 20, "it idles", node.logs)
        assert before <= set(listening()), node.logs()
        client.close()
