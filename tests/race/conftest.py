"""One Redis, emptied before each race, and a start line for contenders."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import connect
from gpuqueue.store.line import Line

T = TypeVar("T")


@pytest.fixture(scope="session")
def race_server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def client(race_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    made = connect(race_server.url)
    made.flushdb()
    Line(made).open("t4")
    yield made
    made.close()


@pytest.fixture
def race() -> Callable[[int, Callable[[int], T]], list[T]]:
    """Run ``contender(number)`` in as many threads at the same instant; answers what each got."""

    def run(contenders: int, contender: Callable[[int], Any]) -> list[Any]:
        line = threading.Barrier(contenders)

        def start(number: int) -> Any:
            line.wait(30)
            return contender(number)

        with ThreadPoolExecutor(contenders) as pool:
            return list(pool.map(start, range(contenders)))

    return run
