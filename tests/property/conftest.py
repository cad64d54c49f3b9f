"""One Redis for all schedules; each schedule empties it first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import connect
from tests.support.model_time import model_time


@pytest.fixture(scope="package")
def schedule_redis() -> Iterator[redis.Redis]:
    with EmbeddedRedis() as server, model_time():
        client = connect(server.url)
        yield client
        client.close()
