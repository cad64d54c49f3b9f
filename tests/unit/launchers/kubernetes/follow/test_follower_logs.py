"""What a pool of threads does for pods fails by itself, counted and logged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gpuqueue.launchers.kubernetes.follow.follower import Follower
from gpuqueue.model.attempt import Attempt, RunningAttempt
from gpuqueue.model.ends import End
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.telemetry import STEP_FAILURES
from tests.support.waiting import until


class Broken:
    """No observation can be written."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError("broken")


def entry(name: str) -> Any:
    metadata = SimpleNamespace(name=name, uid=name, finalizers=None)
    return SimpleNamespace(pod=SimpleNamespace(metadata=metadata), status=SimpleNamespace(node="n"))


@pytest.mark.parametrize("is_container", [False, True])
def test_a_log_that_cannot_be_kept_is_counted_and_the_end_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_container: bool
) -> None:
    ends: list[str] = []

    def on_end(running: RunningAttempt, end: End) -> bool:
        ends.append(running.instance)
        return True

    monkeypatch.setattr(Follower, "_end_of", lambda *_: End(None, ""))  # type: ignore[arg-type]
    common: Any = SimpleNamespace(start_timeout=1.0, grace_seconds=1.0, owner="")
    api: Any = None
    observations: Any = Broken()
    follower = Follower(api, "", ClusterSettings(), common, on_end, observations)
    running = RunningAttempt(Attempt("t4", "a", 1), "i")
    live: Any = SimpleNamespace(running=running, is_container=is_container)
    before = STEP_FAILURES.labels("log")._value.get()
    follower._ended(entry("pod-a"), live)
    until(lambda: "step 'log' of pod-a failed" in caplog.text)
    assert ends == ["i"]
    assert STEP_FAILURES.labels("log")._value.get() == before + 1
    follower.close()
