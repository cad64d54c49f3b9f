"""An application that cannot be imported, and a process that is stopped while it imports one."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals

from gpuqueue.errors import ApplicationNotFound
from gpuqueue.executor.application import Stopped, be_ready, find
from gpuqueue.model.celery_redis import BACKEND, BROKER

STOP = "from gpuqueue.executor.application import Stopped\n"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of that text."""
    name = f"app_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(request.param)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize(
    "app", ["import sys; sys.exit(3)", "1 / 0", "import no_such_module"], indirect=True
)
def test_an_application_that_fails_to_import_is_not_found(app: str) -> None:
    with pytest.raises(ApplicationNotFound, match=f"GPUQUEUE_APP='{app}' cannot be imported"):
        find(app)


@pytest.mark.parametrize(
    "app",
    [
        STOP + "raise Stopped(143)",
        STOP + "try:\n    raise Stopped(143)\nexcept BaseException as exc:\n    raise"
        " ImportError('broken') from exc",
        STOP
        + "try:\n    raise Stopped(143)\nexcept BaseException:\n    raise ImportError('broken')",
    ],
    ids=["as it is", "wrapped", "replaced"],
    indirect=True,
)
def test_a_stop_during_the_import_is_not_blamed_on_the_application(app: str) -> None:
    """An eviction just after the claim would otherwise end the job for good, as one whose
    application is missing.
    """
    with pytest.raises(Stopped) as caught:
        find(app)
    assert caught.value.code == 143


@pytest.mark.parametrize(
    "app",
    ["import celery, os; app = celery.Celery(); del os.environ['CELERY_RESULT_BACKEND']"],
    indirect=True,
)
def test_an_import_that_clears_its_environment_keeps_its_results(
    app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BROKER, "redis://broker/0")
    monkeypatch.setenv(BACKEND, "redis://results/1")
    assert find(app).conf.result_backend == "redis://results/1"


@pytest.mark.parametrize(
    ("app", "after"),
    [
        ("import celery; app = celery.Celery(); [[] for _ in range(10**5)]", gc.get_threshold()),
        ("import celery, gc; app = celery.Celery(); gc.set_threshold(10**6)", (10**6, 10, 10)),
    ],
    ids=["silent", "has its own"],
    indirect=["app"],
)
def test_nothing_is_collected_during_an_import(app: str, after: tuple[int, int, int]) -> None:
    gc.collect()  # else one may be due at once
    before, collected = gc.get_threshold(), gc.get_stats()[1]["collections"]
    try:
        find(app)
        assert gc.get_threshold() == after
    finally:
        gc.set_threshold(*before)
    assert gc.get_stats()[1]["collections"] == collected


def test_the_sender_of_worker_ready_has_no_messages() -> None:
    told: list[Any] = []

    def ready(sender: Any, **_: object) -> None:
        told.append(sender)

    signals.worker_ready.connect(ready)
    app = Celery("ready", set_as_current=False)
    be_ready(app, "w@h")
    signals.worker_ready.disconnect(ready)
    (sender,) = told
    assert (sender.app, sender.hostname, sender.pool) == (app, "w@h", None)
    assert sender.controller is sender and not hasattr(sender, "task_consumer")
