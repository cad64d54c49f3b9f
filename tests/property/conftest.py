"""One Redis for all schedules; each schedule empties it first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import connect
from tests.property.faulty_machine import Ends, Machine
from tests.property.one_job import World
from tests.support.model_time import model_time


@pytest.fixture(scope="package")
def schedule_redis() -> Iterator[redis.Redis]:
    with EmbeddedRedis() as server, model_time():
        # On a machine that stalls, a call that is repeated would have another answer.
        client = connect(server.url, timeout=60)
        client.config_set("appendonly", "no")  # it is never restarted
        yield client
        client.close()


@pytest.fixture
def machine(schedule_redis: redis.Redis) -> Callable[..., Machine]:
    """Makes a machine on which jobs end as it is told."""

    def make(how: Ends, **more: Any) -> Machine:
        return Machine(schedule_redis, how, **more)

    return make


@pytest.fixture
def world(schedule_redis: redis.Redis) -> World:
    return World(schedule_redis)
