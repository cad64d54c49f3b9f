"""From the exit status of a process to a reason and an error message. Pure.

An exit code does not tell a failure of the GPU from one of the program: the executor classifies
exceptions instead (:mod:`gpuqueue.nvidia.failures`).
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuqueue.model.reasons import EndReason

#: Exit codes of the executor, from sysexits.h if one fits.
EXIT_OK = 0
EXIT_NO_APPLICATION = 72
"""A finisher could not import the application (EX_OSFILE)."""
EXIT_NO_STATE = 75
"""The executor could not reach Redis (EX_TEMPFAIL)."""
EXIT_STALE = 76
"""The attempt belongs to another process, or is no longer current."""
EXIT_DEVICE = 77
"""The GPU failed, not the job: see :mod:`gpuqueue.nvidia.failures`."""
EXIT_CONFIG = 78
"""The executor's settings are wrong, or Redis refuses its user or fails to prove its identity
(EX_CONFIG).
"""
#: The codes with this meaning only if an executor, and no container of a user, ends with them.
EXECUTORS_OWN = (EXIT_NO_STATE, EXIT_STALE, EXIT_DEVICE, EXIT_CONFIG)
EXIT_TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True, slots=True)
class End:
    """What an observed end means if the executor has not reported.

    ``avoid`` names the node at fault: the next attempt avoids it. ``evidence`` is kept in the
    record: exit_code, container_reason, node, pod, and scheduled, container_started and
    container_finished in Unix seconds.
    """

    reason: EndReason
    error: str
    avoid: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


def explain(code: int | None) -> End:
    """Explain the exit status of an executor as ``subprocess`` returns it (-N: killed by signal N);
    None if it is unknown.
    """
    if code is None:
        return End(
            EndReason.INFRA,
            "the executor is gone, and how it ended is unknown (machine or dispatcher restarted)",
        )
    if code == EXIT_NO_STATE:
        return End(EndReason.INFRA, "the executor could not reach Redis (exit code 75)")
    if code == EXIT_STALE:
        return End(
            EndReason.INFRA, "another process has taken the attempt of the executor (exit code 76)"
        )
    if code == EXIT_DEVICE:
        return End(EndReason.INFRA, "the GPU failed while the job ran (exit code 77)")
    if code == EXIT_CONFIG:
        return End(
            EndReason.INFRA,
            "the executor's settings are wrong, or Redis refuses it (exit code 78); its log has the"
            " fix",
        )
    if code < 0 or 128 < code <= 128 + signal.NSIG:
        number = -code if code < 0 else code - 128
        name = _signal_name(number)
        hints: dict[int, str] = {
            signal.SIGKILL: ": out of host memory, or killed by a user",
            signal.SIGSEGV: ": a crash in native code",
            signal.SIGABRT: ": aborted in native code (typical of CUDA and C++ libraries)",
            signal.SIGTERM: ": asked to stop",
        }
        hint = hints.get(number, "")
        return End(EndReason.ERROR, f"the executor was killed by signal {number} ({name}){hint}")
    if code == EXIT_OK:
        return End(
            EndReason.ERROR,
            "the executor ended with exit code 0 without a result: the task called os._exit or"
            " exec",
        )
    return End(EndReason.ERROR, f"the executor ended with exit code {code} without a result")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
