"""Stacks of real processes for tests anywhere below, and their logs beside a test that fails."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import celery
import hypothesis
import pytest
from celery.result import AsyncResult

from gpuqueue.dev.embedded_redis import find_server
from tests.support import collecting, process_state, selection
from tests.support.forking import end_forking
from tests.support.making_reports import no_collection, sendable
from tests.support.redis_servers import version
from tests.support.runners import end_runners
from tests.support.stack import Stack, listed

_LOGS: pytest.StashKey[tuple[list[Stack], dict[int, dict[str, int]]]] = pytest.StashKey()
#: Characters of a node's log that are shown.
SHOWN = 6000


def pytest_configure() -> None:
    """On SIGTERM, as of `timeout` or CI, tear fixtures down: no process is left behind."""
    # Hundreds of processes import the same modules: each would compile them.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Short: the path of a socket may have 103 bytes.
    os.environ["GPUQUEUE_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="gpuqueue-")

    def on_term(*_: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    signal.signal(signal.SIGTERM, on_term)
    # An example may take as long as a busy machine needs.
    hypothesis.settings.register_profile(
        "suite",
        hypothesis.settings.default,
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("suite")
    # A result that is collected unsubscribes, and tries for 20 s where its Redis has gone: in any
    # thread that collects, such as one that a later test waits for.
    del AsyncResult.__del__


def pytest_unconfigure() -> None:
    """No runner outlives its tests."""
    end_forking()
    end_runners()
    shutil.rmtree(os.environ["GPUQUEUE_RUNTIME_DIR"], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect quickly: each worker does."""
    with collecting.without_garbage():
        if hasattr(session.config, "workerinput"):  # one worker of several
            collecting.import_share(session.config)
        return (yield)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files that have none of the tests that are asked for."""
    return selection.has_none_of(collection_path, config.option.markexpr) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this run does not take; order and group the rest."""
    items[:], left_out = selection.select(items)
    config.hook.pytest_deselected(items=left_out)
    if hasattr(config, "workerinput"):  # one worker of several
        selection.order(items)


def pytest_report_header() -> list[str]:
    """Name the Redis server, the Celery and the part of the cases on the double."""
    part = selection.chosen_part()
    taken = "all" if part is None else f"part {part} (0 to {selection.PARTS - 1})"
    return [
        # make has REDIS= and CELERY=.
        f"{version(find_server())}, Celery {celery.__version__}",
        f"whole-stack cases on the double of Kubernetes: {taken}; {selection.PART}",
        f"their pods are {'warm' if selection.has_warm_pods() else 'cold'}; {selection.PODS}",
    ]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file whole where its tests share a fixture."""
    from tests.support.scheduling import UnitScheduling

    config.option.loadscopereorder = False  # the order is selection's
    return UnitScheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three workers for each core (`-n auto`): tests wait for processes more than they compute."""
    return 3 * len(os.sched_getaffinity(0))


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
    """Make separate stacks: ``stack_factory(env={...})``, then ``.dispatcher()``,
    ``.cpu_worker()``, ``.redis``.
    """
    number = itertools.count()
    with ExitStack() as made:

        def make(env: dict[str, str] | None = None, app: str = "shop", **cluster: Any) -> Stack:
            stack = Stack(tmp_path / f"stack{next(number)}", env, app, kind, **cluster)
            return made.enter_context(listed(running_stacks, stack))

        yield make


@pytest.fixture(scope="module", autouse=True)
def _process_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a module that leaves the process changed for those that come after it."""
    with process_state.given_back(request.node.nodeid):
        yield


@pytest.fixture(autouse=True)
def _log_marks(request: pytest.FixtureRequest, running_stacks: list[Stack]) -> None:
    request.node.stash[_LOGS] = (
        running_stacks,
        {id(stack): stack.log_sizes() for stack in running_stacks},
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the nodes wrote during a test that fails."""
    with no_collection():
        report = yield
    if report.failed:
        stacks, marks = item.stash.get(_LOGS, ([], {}))
        for stack in stacks:
            for name, text in stack.logs().items():
                new = text[marks.get(id(stack), {}).get(name, 0) :]
                if new.strip():
                    report.sections.append((f"log of {name}", new[-SHOWN:]))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Send what tests wrote in a form that can be sent."""
    return sendable((yield))
