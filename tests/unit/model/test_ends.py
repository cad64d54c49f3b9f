"""How the end of a process reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpuqueue.model.ends import explain
from gpuqueue.model.reasons import NEVER_AGAIN, TRY_AGAIN, EndReason

ENDS: dict[str, tuple[int | None, EndReason, bool, str]] = {
    "an unseen end is the fault of the infrastructure": (
        None,
        EndReason.INFRA,
        True,
        "its exit status was not observed",
    ),
    "no Redis is the infrastructure's": (
        75,
        EndReason.INFRA,
        True,
        "could not reach Redis, or Redis failed a command of it (exit code 75)",
    ),
    "a taken attempt is tried again": (
        76,
        EndReason.INFRA,
        True,
        "no longer current, or Redis had lost its message (exit code 76)",
    ),
    "a Redis that refuses is the infrastructure's": (
        78,
        EndReason.INFRA,
        True,
        "settings are wrong, or Redis refuses it",
    ),
    "a clean exit without a result is the task's": (
        0,
        EndReason.ERROR,
        False,
        "called os._exit or exec",
    ),
    "an exit code is told": (3, EndReason.ERROR, False, "ended with exit code 3 without a result"),
    "SIGKILL hints at memory": (
        -9,
        EndReason.ERROR,
        False,
        "killed by signal 9 (SIGKILL): out of host memory",
    ),
    "SIGKILL as a shell tells it": (137, EndReason.ERROR, False, "killed by signal 9 (SIGKILL)"),
    "SIGSEGV hints at native code": (
        -11,
        EndReason.ERROR,
        False,
        "(SIGSEGV): a crash in native code",
    ),
    "SIGABRT hints at CUDA": (
        134,
        EndReason.ERROR,
        False,
        "(SIGABRT): aborted in native code (CUDA",
    ),
    "a signal without a name": (-63, EndReason.ERROR, False, "killed by signal 63"),
}


@pytest.mark.parametrize(("code", "reason", "again", "text"), ENDS.values(), ids=ENDS)
def test_the_end_reads(code: int | None, reason: EndReason, again: bool, text: str) -> None:
    end = explain(code)
    assert (end.reason, end.reason in TRY_AGAIN) == (reason, again)
    assert text in end.error


def test_no_reason_is_both_tried_again_and_hopeless() -> None:
    assert not TRY_AGAIN & NEVER_AGAIN


def test_a_process_that_ended_well_is_not_lost() -> None:
    """Redis may have lost its report, and its result counts."""
    ends = {code: replace(explain(code), evidence={"exit_code": code}) for code in (0, 1, -9)}
    lost = {code: end.context()["lost"] for code, end in ends.items()}
    assert lost == {0: False, 1: True, -9: True}
