"""How the end of a process reads: exit status → reason, and words. Pure.

Exit codes alone do not tell a GPU's failure from a program's: see facts on CUDA errors where the
executor classifies.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuqueue.model.reasons import TRY_AGAIN, EndReason

#: Exit codes of the executor (sysexits.h where one fits).
EXIT_OK = 0
EXIT_NO_APPLICATION = 72
"""A finisher could not import the application (EX_OSFILE)."""
EXIT_NO_STATE = 75
"""Redis could not be reached (EX_TEMPFAIL)."""
EXIT_STALE = 76
"""The attempt was not, or no longer, this process's to run."""
EXIT_DEVICE = 77
"""The GPU itself failed, not the job: see gpu_failures.py."""
EXIT_CONFIG = 78
"""What the executor is told is wrong, or Redis refuses its user or cannot prove who it is
(EX_CONFIG).
"""
#: Those that only an executor means so.
EXECUTORS_OWN = (EXIT_NO_STATE, EXIT_STALE, EXIT_DEVICE, EXIT_CONFIG)
EXIT_TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True, slots=True)
class End:
    """What an observed end means, if the executor has not reported.

    ``avoid`` names the node at fault: the next attempt keeps away from it. ``evidence`` is what was
    seen, kept in the record: exit_code, container_reason, node, pod, and scheduled,
    container_started and container_finished in Unix seconds.
    """

    reason: EndReason
    error: str
    avoid: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def again(self) -> bool:
        """Whether a new attempt is due."""
        return self.reason in TRY_AGAIN


def explain(code: int | None) -> End:
    """Read the exit status of an executor: as ``subprocess`` gives it (-N: killed by signal N),
    None if nobody saw it.
    """
    if code is None:
        return End(
            EndReason.INFRA,
            "the executor is gone, and nobody saw how it ended (machine or dispatcher restarted)",
        )
    if code == EXIT_NO_STATE:
        return End(EndReason.INFRA, "the executor could not reach Redis (exit code 75)")
    if code == EXIT_STALE:
        return End(
            EndReason.INFRA, "the executor found its attempt taken by another (exit code 76)"
        )
    if code == EXIT_DEVICE:
        return End(EndReason.INFRA, "the GPU failed under the job (exit code 77)")
    if code == EXIT_CONFIG:
        return End(
            EndReason.INFRA,
            "the executor's settings are wrong, or Redis refuses it (exit code 78); its log says"
            " what to do",
        )
    if code < 0 or 128 < code <= 128 + signal.NSIG:
        number = -code if code < 0 else code - 128
        name = _signal_name(number)
        hints: dict[int, str] = {
            signal.SIGKILL: ": out of host memory, or killed by hand",
            signal.SIGSEGV: ": a crash in native code",
            signal.SIGABRT: ": aborted in native code (CUDA and C++ libraries end so)",
            signal.SIGTERM: ": told to stop",
        }
        hint = hints.get(number, "")
        return End(EndReason.ERROR, f"the executor was killed by signal {number} ({name}){hint}")
    if code == EXIT_OK:
        return End(
            EndReason.ERROR,
            "the executor ended with exit code 0 without a result: the task left by os._exit or"
            " exec",
        )
    return End(EndReason.ERROR, f"the executor ended with exit code {code} without a result")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
