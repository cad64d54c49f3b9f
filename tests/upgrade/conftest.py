"""The code of the previous version, once a session, and a Redis that is emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from gpuqueue.embedded import EmbeddedRedis
from gpuqueue.store.client import connect
from tests.upgrade.previous import PREVIOUS, has_history, unpack


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package of the previous version lies."""
    if not has_history():
        pytest.skip(f"commit {PREVIOUS} is not here: a shallow clone, or no git")
    return unpack(tmp_path_factory.mktemp("previous"))


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as started:
        yield started


@pytest.fixture
def client(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    made = connect(server.url)
    made.flushdb()
    yield made
    made.close()
