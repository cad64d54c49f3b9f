from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import pytest

SetAll = Callable[[Mapping[str, str]], None]


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GPU_", "GPUQUEUE_", "CELERY_", "T4_", "MIG_")):
            monkeypatch.delenv(name)


@pytest.fixture
def set_all(monkeypatch: pytest.MonkeyPatch) -> SetAll:
    """Set several variables of the environment."""

    def set_each(values: Mapping[str, str]) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_each
