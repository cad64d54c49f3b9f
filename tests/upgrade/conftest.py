"""The code of the previous version, once a session; dispatchers of any version; a Redis that is
emptied before each test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import connect
from tests.support.stack import Stack
from tests.upgrade.previous import PREVIOUS, has_history, unpack
from tests.upgrade.stream import Versions


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


@pytest.fixture
def versions(tmp_path: Path, running_stacks: list[Stack]) -> Iterator[Callable[[str], Versions]]:
    """Make a stack whose attempts run where one says: local or kubernetes."""
    made: list[Versions] = []

    def make(kind: str) -> Versions:
        made.append(Versions(tmp_path / "stack", kind))
        running_stacks.append(made[-1])
        return made[-1]

    yield make
    for stack in made:
        running_stacks.remove(stack)
        stack.close()


@pytest.fixture
def cluster(versions: Callable[[str], Versions], kind: str) -> Versions:
    """One, of each kind."""
    return versions(kind)


@pytest.fixture
def pods(versions: Callable[[str], Versions]) -> Versions:
    """One with pods."""
    return versions("kubernetes")
