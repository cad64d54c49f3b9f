"""Application images stay small: the executor needs celery and redis, and nothing else of ours."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = [
    "pydantic",
    "pydantic_settings",
    "msgspec",
    "rich",
    "psutil",
    "pynvml",
    "kubernetes",
    "prometheus_client",
    "flower",
]


def loaded_by(modules: str, names: list[str]) -> list[str]:
    """Those of the names that are loaded after an import."""
    program = (
        f"import json, sys, {modules}; print(json.dumps([name for name in {names} if name"
        " in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    found: list[str] = json.loads(done.stdout)
    return found


def test_the_executor_imports_only_celery_and_redis() -> None:
    modules = "gpuqueue.executor.main, gpuqueue.runner.pod, gpuqueue.runner.parent"
    assert loaded_by(modules, HEAVY) == []


def test_runner_of_a_pod_that_forks_nothing_is_light() -> None:
    assert loaded_by("gpuqueue.runner.pod", [*HEAVY, "celery", "redis"]) == []
