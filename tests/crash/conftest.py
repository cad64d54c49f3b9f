from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crash_stack import CrashStack
from tests.support.stack import Stack


@pytest.fixture
def cluster(tmp_path: Path, running_stacks: list[Stack], kind: str) -> Iterator[CrashStack]:
    made = CrashStack(tmp_path, kind)
    running_stacks.append(made)
    yield made
    running_stacks.remove(made)
    made.close()
