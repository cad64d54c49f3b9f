"""One stack for the tests of Kubernetes mode: its attempts are Jobs of the double."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.support.cluster_stack import ClusterStack
from tests.support.stack import Stack


@pytest.fixture(scope="session")
def quick(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]
) -> Iterator[ClusterStack]:
    """Started once, for tests that leave it as they found it."""
    made = ClusterStack(tmp_path_factory.mktemp("quick"))
    running_stacks.append(made)
    try:
        made.dispatcher()
        made.cpu_worker()
        yield made
    finally:
        running_stacks.remove(made)
        made.close()


@pytest.fixture
def shop(quick: ClusterStack) -> ModuleType:
    """The application, as its callers import it."""
    return quick.shop


@pytest.fixture
def key() -> str:
    """What a test and its tasks talk under."""
    return uuid.uuid4().hex
