"""How a run collects its tests: thousands of them, in each worker of pytest-xdist."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import selection


@contextlib.contextmanager
def without_garbage() -> Iterator[None]:
    """Collect no garbage in a block that makes hundreds of thousands of objects, all of which stay.

    Later collections leave them out, too.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def import_share(config: Any) -> None:
    """Import one worker's share of the test files, where a run has them all.

    In a fresh checkout a worker compiles its share, and finds what the others have compiled.
    Without it, each worker compiles every file.
    """
    number = int(config.workerinput["workerid"].removeprefix("gw"))
    if config.args != ["tests"]:
        return
    for path in test_files()[number :: config.workerinput["workercount"]]:
        if selection.has_none_of(path, config.option.markexpr):
            continue
        # Collection comes to the same file, and reports its error.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(module_of(path))


def test_files() -> list[Path]:
    """Return all test files, in an order that all workers have."""
    return sorted((selection.ROOT / "tests").rglob("test_*.py"))


def module_of(path: Path) -> str:
    """Return the name by which pytest imports a test file."""
    return ".".join(path.relative_to(selection.ROOT).with_suffix("").parts)
