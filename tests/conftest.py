"""Stacks of real processes for tests anywhere below, and their logs beside a test that fails."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack

_LOGS: pytest.StashKey[tuple[list[Stack], dict[int, dict[str, int]]]] = pytest.StashKey()
#: Characters of a node's log that are shown.
SHOWN = 6000


def pytest_configure() -> None:
    """Told to end, as by `timeout` or CI, pytest tears its fixtures down: no process is left
    behind.
    """

    def on_term(*_: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    signal.signal(signal.SIGTERM, on_term)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, on the cluster, what only processes can do (a mark says why)."""

    def fits(item: pytest.Item) -> bool:
        callspec = getattr(item, "callspec", None)
        on_cluster = callspec is not None and callspec.params.get("kind") == "kubernetes"
        return not (on_cluster and item.get_closest_marker("local_only"))

    left_out = [item for item in items if not fits(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if fits(item)]


@pytest.fixture(scope="session")
def running_stacks() -> list[Stack]:
    """All stacks that run now."""
    return []


@pytest.fixture(
    scope="session", params=["local", pytest.param("kubernetes", marks=pytest.mark.slow)]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Where attempts run: what holds for processes of one machine holds for Jobs of a cluster."""
    found: str = request.param
    return found


@pytest.fixture
def stack_factory(
    tmp_path: Path, running_stacks: list[Stack], kind: str
) -> Iterator[Callable[..., Stack]]:
    """Make stacks of one's own: ``stack_factory(env={...})``, then ``.dispatcher()``,
    ``.cpu_worker()``, ``.redis``.
    """
    made: list[Stack] = []

    def make(env: dict[str, str] | None = None, app: str = "shop", **cluster: Any) -> Stack:
        stack = Stack(tmp_path / f"stack{len(made)}", env, app, kind, **cluster)
        made.append(stack)
        running_stacks.append(stack)
        return stack

    yield make
    for stack in made:
        running_stacks.remove(stack)
        stack.close()


@pytest.fixture(autouse=True)
def _log_marks(request: pytest.FixtureRequest, running_stacks: list[Stack]) -> None:
    request.node.stash[_LOGS] = (
        running_stacks,
        {id(stack): stack.log_sizes() for stack in running_stacks},
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show what the nodes wrote during a test that fails."""
    report: Any = yield
    if report.failed:
        stacks, marks = item.stash.get(_LOGS, ([], {}))
        for stack in stacks:
            for name, text in stack.logs().items():
                new = text[marks.get(id(stack), {}).get(name, 0) :]
                if new.strip():
                    report.sections.append((f"log of {name}", new[-SHOWN:]))
    return report
