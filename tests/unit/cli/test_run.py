"""What `gpuqueue run` makes of a job that did not succeed."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from celery.exceptions import TimeoutError as TookTooLong

from gpuqueue.cli.commands import run
from gpuqueue.errors import ContainerFailed, GpuQueueError

ERROR = ContainerFailed("exit code 7 (Error, node a); the end of its log:\nstep 29\n")
RECORD = {
    "id": "j",
    "state": "ended",
    "attempt": 1,
    "reason": "ERROR",
    "error": str(ERROR),
    "exit_code": 7,
}


def failed(patch: pytest.MonkeyPatch, record: Any, log: str = "") -> int:
    def find(state: object, job_id: str) -> Any:
        if isinstance(record, Exception):
            raise record
        return record

    patch.setattr(run, "find", find)
    patch.setattr(run, "kept", lambda state, record, attempt: log)
    return run._failed(None, "j", ERROR)  # type: ignore[arg-type]


def test_the_log_of_a_failure_goes_to_standard_output_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failed(monkeypatch, RECORD, "step 28\nstep 29\n") == 7
    out, err = capsys.readouterr()
    assert out == "step 28\nstep 29\n"
    assert (
        err
        == "gpuqueue: ERROR: the task raised, or its executor died: exit code 7 (Error, node a)\n"
    )


def test_without_a_log_the_whole_error_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failed(monkeypatch, {**RECORD, "exit_code": 0}) == 1
    assert "step 29" in capsys.readouterr().err


@pytest.mark.parametrize(
    "record", [None, {**RECORD, "state": "running"}, redis.ConnectionError("refused")]
)
def test_a_job_out_of_sight_is_not_reported_as_failed(
    record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        GpuQueueError, match=r"(?s)the state of job j is unknown: .*; see `gpuqueue why j`"
    ):
        failed(monkeypatch, record)


class Late:
    """A result that comes at the second call."""

    def __init__(self) -> None:
        self.waits: list[float | None] = []

    def get(self, timeout: float | None) -> str:
        self.waits.append(timeout)
        if len(self.waits) == 1:
            raise TookTooLong
        return "result"


@pytest.mark.parametrize("found", [None, {"state": "waiting"}, redis.ConnectionError("refused")])
def test_a_job_that_no_dispatcher_takes_is_told(
    found: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find(state: object, job_id: str) -> Any:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(run, "find", find)
    late = Late()
    assert run._wait(None, "j", late, "gpu.auto", 60.0) == "result"  # type: ignore[arg-type]
    assert late.waits == [run.UNTAKEN, 60.0 - run.UNTAKEN]
    untaken = "no dispatcher has taken it from gpu.auto yet" in capsys.readouterr().err
    assert untaken is (found is None)
    with pytest.raises(TookTooLong):
        run._wait(None, "j", Late(), "gpu.auto", 1.0)  # type: ignore[arg-type]


def test_a_variable_without_a_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run._variables(("A=1", "B=", "C=x=y")) == {"A": "1", "B": "", "C": "x=y"}
    for wrong in ("A", "=1", ""):
        with pytest.raises(GpuQueueError, match="is not NAME=TEXT"):
            run._variables((wrong,))
