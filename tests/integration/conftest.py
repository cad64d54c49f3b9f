"""One stack that the integration tests share: a Redis, a dispatcher, and the application's own
worker.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from types import ModuleType

import pytest

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.support.hands import Hands
from tests.support.stack import Stack, listed

GPU = "gpu.t4.shared"


@pytest.fixture(scope="session")
def stack(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack], kind: str
) -> Iterator[Stack]:
    """Started once for each kind; each test uses different keys and ids."""
    with listed(running_stacks, Stack(tmp_path_factory.mktemp("stack"), kind=kind)) as made:
        made.dispatcher()
        made.cpu_worker()
        yield made


@pytest.fixture(scope="module")
def hands() -> Iterator[Hands]:
    """Attempts made by hand, in a Redis of the test file."""
    with EmbeddedRedis() as server:
        made = Hands(server.url)
        yield made
        made.app.close()
        made.client.close()


@pytest.fixture
def shop(stack: Stack) -> ModuleType:
    """The application, as its callers import it."""
    return stack.shop


@pytest.fixture
def key() -> str:
    """What a test and its tasks talk under."""
    return uuid.uuid4().hex


@pytest.fixture(params=["celery", GPU], ids=["cpu", "gpu"])
def queue(request: pytest.FixtureRequest) -> str:
    """The application's own queue, then the GPU's: what holds on one holds on the other."""
    return str(request.param)
