from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crash_stack import CrashStack
from tests.support.stack import Stack, listed


@pytest.fixture
def cluster(tmp_path: Path, running_stacks: list[Stack], kind: str) -> Iterator[CrashStack]:
    with listed(running_stacks, CrashStack(tmp_path, kind)) as made:
        yield made
