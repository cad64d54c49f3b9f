"""One stack for the tests of Kubernetes mode: its attempts are Jobs of the double."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.doubles.kubernetes import clock
from tests.support.cluster_stack import ClusterStack
from tests.support.stack import Stack, listed


@pytest.fixture(params=[600, -600])
def ahead(request: pytest.FixtureRequest) -> Iterator[int]:
    """Seconds by which the clock of the cluster and its nodes is ahead."""
    seconds: int = request.param
    clock.shift(seconds)
    yield seconds
    clock.shift(0)


@pytest.fixture(scope="session")
def quick(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]
) -> Iterator[ClusterStack]:
    """Started once, for tests that leave it as they found it."""
    with listed(running_stacks, ClusterStack(tmp_path_factory.mktemp("quick"))) as made:
        made.dispatcher()
        made.cpu_worker()
        yield made


@pytest.fixture(scope="session")
def spawning(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]
) -> Iterator[ClusterStack]:
    """The same, whose pods start their executors."""
    env = {"GPUQUEUE_START": "spawn"}
    with listed(running_stacks, ClusterStack(tmp_path_factory.mktemp("spawning"), env)) as made:
        made.dispatcher()
        made.cpu_worker()
        yield made


@pytest.fixture
def stacks(tmp_path: Path, running_stacks: list[Stack]) -> Iterator[Callable[..., ClusterStack]]:
    """Makes stacks of a test's own."""
    number = itertools.count()
    with ExitStack() as made:

        def make(env: dict[str, str] | None = None, **cluster: Any) -> ClusterStack:
            stack = ClusterStack(tmp_path / f"own{next(number)}", env, **cluster)
            return made.enter_context(listed(running_stacks, stack))

        yield make


@pytest.fixture(params=["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def either(request: pytest.FixtureRequest) -> ClusterStack:
    """One of both: what holds for a forked executor holds for one that is started."""
    name = "quick" if request.param == "fork" else "spawning"
    found: ClusterStack = request.getfixturevalue(name)
    return found


@pytest.fixture
def shop(quick: ClusterStack) -> ModuleType:
    """The application, as its callers import it."""
    return quick.shop
