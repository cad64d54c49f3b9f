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


def test_the_executor_imports_only_celery_and_redis() -> None:
    program = (
        f"import json, sys, gpuqueue.executor; print(json.dumps([name for name in {HEAVY} if name"
        " in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == []
