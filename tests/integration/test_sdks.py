"""Real SDKs that patch Celery, in an application on GPU queues."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import fetch
from tests.support.nodes import APPS
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.local_only("SDKs")]
GPU = "gpu.t4.shared"


PACKAGES = ("sentry-sdk", "opentelemetry-sdk", "opentelemetry-instrumentation-celery")


@pytest.fixture(scope="module")
def sdks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the SDKs. Skips the test where there is no package index; in CI it fails."""
    folder = tmp_path_factory.mktemp("sdks")
    try:
        fetch.packages(PACKAGES, folder)
    except subprocess.CalledProcessError as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"the SDKs cannot be downloaded: {exc}")
    return folder


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_sentry_and_opentelemetry_see_a_job_as_on_a_worker(
    stack_factory: Callable[..., Stack], sdks: Path, start: str
) -> None:
    path = os.pathsep.join(map(str, (sdks, APPS)))
    stack = stack_factory({"GPUQUEUE_APP": "sdks", "GPUQUEUE_START": start, "PYTHONPATH": path})
    stack.dispatcher()
    good, bad = (stack.app.send_task("sdks.divide", (6, by), queue=GPU) for by in (3, 0))
    assert good.get(PATIENCE) == 2.0
    with pytest.raises(ZeroDivisionError):
        bad.get(PATIENCE)

    def told(key: str, of: Callable[[dict[str, Any]], object]) -> list[Any]:
        lines: list[Any] = stack.client.lrange(key, 0, -1)
        return [found for each in lines if (found := of(json.loads(each)))]

    until(lambda: len(told("spans", lambda span: span["name"])) >= 2, PATIENCE, "both spans")
    spans = told("spans", lambda span: span["name"] == "run/sdks.divide" and span["attributes"])
    assert {each["celery.task_name"] for each in spans} == {"sdks.divide"}
    assert sorted(each["celery.state"] for each in spans) == ["FAILURE", "SUCCESS"]
    until(lambda: told("errors", lambda event: event.get("exception")), PATIENCE, "the error")
    [error] = told("errors", lambda event: event.get("exception") and event)
    assert error["exception"]["values"][-1]["type"] == "ZeroDivisionError"
    assert error["exception"]["values"][-1]["mechanism"]["type"] == "celery"
    assert error["extra"]["celery-job"]["task_name"] == "sdks.divide"
    traced = told("errors", lambda event: event.get("type") == "transaction" and event)
    assert {each["transaction"] for each in traced} == {"sdks.divide"}
