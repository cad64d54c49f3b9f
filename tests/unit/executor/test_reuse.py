"""What a process bears on its way to its next job."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from gpuqueue.executor.reuse import Reuse
from gpuqueue.launchers.local.runtime import Runtime, prepare
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.executor_env import JOBS, RUNTIME, TURN, UNTIL
from gpuqueue.model.record import Record
from gpuqueue.model.warm_pod import WARM_POD, WarmPod
from gpuqueue.store.attempts import ExecutorAttempt

NEXT: Record = {"delivery": "b", "id": "b", "gpu_class": "t4", "isolation": "shared", "attempt": 1}


class Asker:
    """An attempt that is given the next job; meanwhile files of its process are lost."""

    attempt = Attempt("t4", "a", 1)

    def __init__(self, *lost: Path) -> None:
        self.asked = 0
        self._lost = lost

    def take_next(self, *_: object, **__: object) -> tuple[Any, Record, dict[str, Any]]:
        self.asked += 1
        for path in self._lost:
            shutil.rmtree(path)
        return self, NEXT, {}


class Going:
    """A process that asks."""

    def __init__(self, folder: Path) -> None:
        self.runtime: Runtime = prepare(folder, "key")
        self.environ = {RUNTIME: str(self.runtime.path)}
        away = redis.Redis(unix_socket_path=str(folder / "nothing"), decode_responses=True)
        reuse = Reuse.of(self.environ, away, "h", "h:n~m.1:1", None, 60.0)
        assert reuse
        self.reuse = reuse
        self.runtime.output("n").write_text("printed")

    def ask(self, asker: Asker) -> Record | None:
        taken = self.reuse.take_next(cast(ExecutorAttempt, asker))
        return taken and taken[1]


@pytest.fixture
def going(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Going:
    monkeypatch.setattr("gpuqueue.executor.turns.os.dup2", lambda one, other: other)
    return Going(tmp_path / "r")


@pytest.mark.parametrize("lost", [[], ["attempts"], ["output"], ["attempts", "output"]])
def test_a_job_that_was_taken_runs_though_it_is_not_noted(going: Going, lost: list[str]) -> None:
    asker = Asker(*(going.runtime.path / name for name in lost))
    assert going.ask(asker) == NEXT
    assert going.environ["GPUQUEUE_JOB_ID"] == "b"


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOSPC])
def test_a_process_that_can_open_no_file_takes_no_job(
    going: Going, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("gpuqueue.launchers.local.runtime.os.open", refuse)
    asker = Asker()
    assert going.ask(asker) is None
    assert asker.asked == 0


@pytest.mark.parametrize(("limit", "value", "jobs"), [(JOBS, "2", 2), (UNTIL, "0", 0)])
def test_a_process_takes_no_more_jobs_than_its_pod_may(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: str, jobs: int
) -> None:
    monkeypatch.setattr("gpuqueue.executor.turns.os.write", lambda _, text: len(text))
    pod = WarmPod("gpu-1", "shop", "v1", 100, 3600, 16_384)
    environ = {WARM_POD: pod.text(), TURN: "mark", limit: value}
    away = redis.Redis(unix_socket_path="/nowhere", decode_responses=True)
    reuse = Reuse.of(environ, away, "pod", "ns/job/uid", None, 60.0)
    assert reuse
    asker = Asker()
    taken = [reuse.take_next(cast(ExecutorAttempt, asker)) for _ in range(4)]
    assert [each is not None for each in taken] == [True] * jobs + [False] * (4 - jobs)
    assert asker.asked == jobs
